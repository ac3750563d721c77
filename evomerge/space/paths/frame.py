"""Functions that all spaces of paths use: checks of settings, baselines, the path of a recipe.

A space of paths searches which blocks of which parents a model has, in which order, how often, and
with which scales. There are `SlotSpace` (variants sakana, structured and dropping), `SliceSpace`
(frankenmerge) and `SwapSpace`; `JointSpace` also merges the parents' blocks at every step of the
path. docs/dataflow.md describes the keys of the search file.

In all of these, the frame is the recipe of everything except the path: host, embeddings, head,
dtype, tokenizer, seed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

from evomerge.errors import ConfigError, RecipeError
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.paths.path import Hop, Path, layers_of, path_of
from evomerge.space.protocol import Genome


class Encoder(Protocol):
    """A space that can also map a recipe back to a genome."""

    def baselines(self) -> Mapping[str, Recipe]:
        """Return the parents, unchanged, as recipes, by label."""
        ...

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome that decodes to `recipe`.

        Raises:
            RecipeError: the recipe lies outside of this space.
        """
        ...


def check_scales(scales: tuple[float, float] | float) -> tuple[float, float] | float:
    """Return the setting `space.scales` unchanged, after checking it.

    Args:
        scales: a range [low, high], or one number for all scales.

    Raises:
        ConfigError: the range is empty, or it contains 0. A scale of 0 would erase the hidden
            state.
    """
    low, high = (scales, scales) if isinstance(scales, (int, float)) else scales
    if low > high or low <= 0.0 <= high:
        raise ConfigError(
            f"space.scales is {scales!r}; it must be a number or [low, high] without 0, which "
            "would erase the hidden state, for example [0.5, 1.5]."
        )
    return scales


def check_depth(layers: tuple[int, int | None], possible: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest and the largest number of blocks of a path.

    Args:
        layers: the setting `space.layers`; None stands for no limit.
        possible: smallest and largest number of blocks that paths of the space can have.

    Raises:
        ConfigError: the setting is not a range, or no path of the space is in it.
    """
    fewest = max(layers[0], possible[0])
    most = min(possible[1] if layers[1] is None else layers[1], possible[1])
    if layers[0] < 1 or fewest > most:
        raise ConfigError(
            f"space.layers is {list(layers)}; it must be [min, max] with 1 <= min <= max, and the "
            f"paths of this space have {possible[0]} to {possible[1]} blocks."
        )
    return fewest, most


def parent_recipe(parent: str, depth: int, stack: str, like: Recipe) -> Recipe:
    """Return the recipe of a parent as it is: its own blocks, embeddings and head.

    Args:
        parent: reference of the parent.
        depth: number of its blocks.
        stack: prefix of the block stack.
        like: recipe that everything else is copied from.
    """
    whole = Layer("passthrough", (Source(parent),))
    blocks = layers_of(Hop(parent, layer) for layer in range(depth))
    return replace(like, layers={stack: blocks}, embeddings=whole, head=whole, options={})


def baselines_of(parents: Mapping[str, int], stack: str, like: Recipe) -> dict[str, Recipe]:
    """Return the recipe of every parent as it is, by the parent's reference.

    Args:
        parents: parent -> number of its blocks.
        stack: prefix of the block stack.
        like: recipe that everything else is copied from.
    """
    return {name: parent_recipe(name, depth, stack, like) for name, depth in parents.items()}


def genomes_of(space: Encoder) -> dict[str, list[Genome]]:
    """Return the genomes of the baselines that a space of paths contains exactly, by label."""
    found = {}
    for label, recipe in space.baselines().items():
        with contextlib.suppress(RecipeError):
            found[label] = [space.encode(recipe)]
    return found


def path_in(recipe: Recipe, frame: Recipe, stack: str) -> Path:
    """Return the path of a recipe that otherwise equals the frame.

    Raises:
        RecipeError: something outside of the path differs from the frame, or a block is merged.
    """
    layers = recipe.layers.get(stack)
    if layers is None:
        raise RecipeError(f"The recipe has no block stack {stack!r}; this space searches it.")
    rest = replace(recipe, layers={}, options={})
    wanted = replace(frame, layers={}, options={})
    for name in ("host", "embeddings", "head", "dtype", "tokenizer", "seed"):
        if getattr(rest, name) != getattr(wanted, name):
            raise RecipeError(
                f"The recipe's {name} differs from that of this space; this space searches only "
                "the path through the blocks."
            )
    return path_of(layers)
