"""Paths on vLLM: how deep the engine is, and whether it can serve all of a space's recipes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from evomerge.config.schema import SearchConfig
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.setup.checked import CheckedSearch
from evomerge.space.protocol import Space

_MUCH_DEEPER = 1.5  # times as deep as the host, from which a person is warned of the cost


def check_engine(config: SearchConfig, checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that one engine can serve all recipes of a space, if the backend is vLLM.

    Raises:
        CheckpointError: paths differ in depth or in the order of layers, and the architecture does
            not let an engine serve them.
    """
    if not serves_paths(config):
        return
    from evomerge.merging.architecture.identity import check_identity_layers, has_fixed_layers

    in_place = config.space.kind == "dataflow" and config.space.variant == "swaps"
    if not (in_place and has_fixed_layers(checkpoints, host)):
        check_identity_layers(checkpoints, host)


def deepest(space: Space, recipe: Recipe, stack: str) -> Recipe:
    """Return a recipe with as many blocks as the space allows; the last block is repeated.

    Args:
        space: the space.
        recipe: any of its recipes.
        stack: the stack of blocks whose depth the space changes.
    """
    blocks = recipe.layers[stack]
    added = blocks[-1:] * (space.max_depth - len(blocks))
    return replace(recipe, layers={**recipe.layers, stack: (*blocks, *added)})


def engine_depth(checked: CheckedSearch) -> str:
    """Return the depth of a vLLM engine for paths, and what it costs, as text for a person."""
    depth, host = checked.space.max_depth, len(checked.checkpoints[checked.host].main)
    return f"{depth} layers; a text takes the time of {depth} for every path ({_cost(depth, host)})"


def engine_warning(checked: CheckedSearch) -> str | None:
    """Return a warning if an engine for paths is much deeper than the host, else None."""
    depth, host = checked.space.max_depth, len(checked.checkpoints[checked.host].main)
    if depth < _MUCH_DEEPER * host:
        return None
    return (
        f"The vLLM engine is made with {depth} layers, since a path may have as many, and every "
        f"path takes their time to generate texts ({_cost(depth, host)}); lower the upper bound of "
        "`space.layers`, or use the backend 'hf'."
    )


def _cost(depth: int, host: int) -> str:
    return f"the host has {host}, so {depth / host:.2g} times its time"


def serves_paths(config: SearchConfig) -> bool:
    """Whether vLLM generates the texts of paths, which may differ in depth."""
    return config.evaluation.backend == "vllm" and config.space.kind != "parameters"
