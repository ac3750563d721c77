"""Checking, without reading weights, that the recipes of a space can be built.

Three recipes are checked: those of the genome where the search starts, of the genome with every
gene at its lowest value, and of the one with every gene at its highest value. Of blocks that are
merged in the same way only one is planned, so that 60 layers of 128 experts take no longer than
one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe
from evomerge.space.baselines import UNIFORM, averaged
from evomerge.space.protocol import Gene, Space

if TYPE_CHECKING:
    from evomerge.merging.tensors.plan import Planner
    from evomerge.merging.tokenizers.rows import MatchedRows


START = "where the search starts"


def sample_recipes(space: Space) -> dict[str, Recipe]:
    """Return the recipes of three genomes by a description for messages, the start first."""
    genomes = {
        START: tuple(map(_start, space.genes)),
        "with every gene at its lowest": tuple(gene.low for gene in space.genes),
        "with every gene at its highest": tuple(gene.high for gene in space.genes),
    }
    return {name: space.decode(genome) for name, genome in genomes.items()}


def check_recipes(
    recipes: Mapping[str, Recipe],
    checkpoints: Mapping[str, Checkpoint],
    host: str,
    vocabulary: MatchedRows | None = None,
) -> None:
    """Plan every tensor of these recipes, and fold the scales of the first one into its weights.

    In other recipes the product of the scales may be too large or too small. Such a candidate
    fails, but the space is not wrong.

    Args:
        recipes: the recipes of `sample_recipes`.
        checkpoints: the parents by reference.
        host: reference of the host.
        vocabulary: the merged vocabulary, if rows are matched by token.

    Raises:
        InputError: one of the recipes cannot be built.
    """
    from evomerge.merging.architecture.depth import merged_config
    from evomerge.merging.architecture.folding import fold_scales
    from evomerge.merging.architecture.loadable import check_loadable
    from evomerge.merging.tensors.plan import Planner

    planner = Planner(checkpoints, host)
    kinds = _BlockKinds(planner)
    for name, recipe in recipes.items():
        try:
            unscaled = _unscaled(recipe)
            try:
                deque(planner.plan(kinds.one_of_each(unscaled), vocabulary), maxlen=0)
            except RecipeError:  # the whole recipe, for a message with the number of the block
                deque(planner.plan(unscaled, vocabulary), maxlen=0)
            config = merged_config(recipe, checkpoints, vocabulary=vocabulary)
            check_loadable(config, recipe, checkpoints, vocabulary)
        except RecipeError as error:
            raise ConfigError(
                f"`space` holds recipes that cannot be built, such as the one {name}: {error}"
            ) from error
    try:
        fold_scales(recipes[START], checkpoints[host])
    except RecipeError as error:
        raise ConfigError(
            f"`space.scales` must be nearer to 1, since the recipe {START} cannot be built: {error}"
        ) from error


def _start(gene: Gene) -> float:
    """Return the value at which the search starts; a choice is a whole number."""
    return gene.start if gene.kind == "real" else float(math.floor(gene.start))


def _unscaled(recipe: Recipe) -> Recipe:
    """Return a recipe with all scales at 1."""
    stacks = recipe.layers.items()
    plain = {name: tuple(replace(item, scale=1.0) for item in layers) for name, layers in stacks}
    return replace(recipe, layers=plain)


class _BlockKinds:
    """Finds blocks that are merged alike: with the same method, knobs, tensor shapes and dtypes."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._parent_block = cache(self._content)
        self._numbers: dict[object, int] = {}

    def one_of_each(self, recipe: Recipe) -> Recipe:
        """Return a recipe with only one of the blocks that are merged in the same way."""
        few = {
            prefix: tuple({self._kind(prefix, layer): layer for layer in layers}.values())
            for prefix, layers in recipe.layers.items()
        }
        return replace(recipe, layers=few)

    def _kind(self, prefix: str, layer: Layer) -> object:
        """Return a key that is equal for blocks that are merged in the same way."""
        inputs = (*layer.sources, *([layer.base] if layer.base else []))
        parents = tuple(
            (item.parent, self._parent_block(prefix, item.parent, item.layer)) for item in inputs
        )
        knobs = (layer.knobs, *(item.knobs for item in inputs))
        return layer.method, parents, tuple(map(repr, knobs))

    def _content(self, prefix: str, parent: str, layer: int | None) -> object:
        """Return a number for the names, shapes and dtypes of the tensors of a parent's block.

        Blocks with the same content have the same number. Numbers are faster to compare and hash.
        """
        stack = self.planner.fit(parent).stacks.get(prefix)
        if stack is None or layer is None or layer not in range(len(stack)):
            return "no such block", layer  # the planner raises the error
        tensors = self.planner.checkpoints[parent].tensors
        infos = ((rest, tensors[stack.name(layer, rest)]) for rest in stack.blocks[layer])
        content = tuple((rest, info.shape, info.dtype) for rest, info in infos)
        return self._numbers.setdefault(content, len(self._numbers))


LEAST = 3
"""Smallest number of parents of a greedy soup; of two it is the uniform merge or the better one."""


def check_baselines(config: SearchConfig, space: Space) -> None:
    """Check that the baselines that a search file asks for can be made.

    Raises:
        ConfigError: the greedy soup cannot be made.
    """
    if "greedy_soup" not in config.baselines:
        return
    if config.mode == "pareto":
        raise ConfigError(
            "`baselines` has 'greedy_soup', which adds parents as long as one score does not drop, "
            "but with `mode` 'pareto' there are several scores; remove it."
        )
    uniform = space.baselines().get(UNIFORM)
    if uniform is None:
        raise ConfigError(
            f"`baselines` has 'greedy_soup', which averages parents, but `space.kind` "
            f"{config.space.kind!r} merges no weights; remove it."
        )
    count = len(averaged(uniform))
    if count < LEAST:
        raise ConfigError(
            f"`baselines` has 'greedy_soup', which takes {LEAST} parents or more beside the base, "
            f"but there are {count}; remove it."
        )


def count_baselines(config: SearchConfig, space: Space) -> int:
    """Return how many candidates of a search are baselines, with the steps to the greedy soup."""
    baselines = space.baselines()
    soup = len(averaged(baselines[UNIFORM])) if "greedy_soup" in config.baselines else 0
    return len(baselines) + soup
