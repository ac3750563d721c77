"""What the spaces of paths share: limits, baselines, and the frame around a path.

The data-flow space searches which blocks of which parents a model has, in which order, how often
and how scaled: `SlotSpace` (sakana, structured, dropping), `SliceSpace` (frankenmerge),
`SwapSpace`; `JointSpace` merges at every depth of a path. docs/dataflow.md has the keys of the
search file.
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
    """A space that can say which genome a path has."""

    def baselines(self) -> Mapping[str, Recipe]:
        """Return the parents as they are, by label."""
        ...

    def encode(self, recipe: Recipe) -> Genome:
        """Return a genome that decodes to `recipe`.

        Raises:
            RecipeError: the recipe lies outside of this space.
        """
        ...


def check_scales(scales: tuple[float, float] | float) -> tuple[float, float] | float:
    """Return the scales if every one of them can be folded into weights.

    Raises:
        ConfigError: the range is empty or contains 0, which would erase the hidden state.
    """
    low, high = (scales, scales) if isinstance(scales, (int, float)) else scales
    if low > high or low <= 0.0 <= high:
        raise ConfigError(
            f"space.scales is {scales!r}; it must be a number or [low, high] without 0, which "
            "would erase the hidden state, for example [0.5, 1.5]."
        )
    return scales


def check_depth(layers: tuple[int, int | None], possible: tuple[int, int]) -> tuple[int, int]:
    """Return (fewest, most) blocks of a path, from the wish and what the layout can do.

    Raises:
        ConfigError: no path of the layout has so many blocks.
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
    """Return a parent's own blocks, embeddings and head as a recipe."""
    whole = Layer("passthrough", (Source(parent),))
    blocks = layers_of(Hop(parent, layer) for layer in range(depth))
    return replace(like, layers={stack: blocks}, embeddings=whole, head=whole, options={})


def baselines_of(parents: Mapping[str, int], stack: str, like: Recipe) -> dict[str, Recipe]:
    """Return every parent as it is, by its reference."""
    return {name: parent_recipe(name, depth, stack, like) for name, depth in parents.items()}


def genomes_of(space: Encoder) -> dict[str, Genome]:
    """Return genomes of the baselines that a space of paths holds exactly, by label."""
    found = {}
    for label, recipe in space.baselines().items():
        with contextlib.suppress(RecipeError):
            found[label] = space.encode(recipe)
    return found


def path_in(recipe: Recipe, frame: Recipe, stack: str) -> Path:
    """Return the path of a recipe that differs from the frame in nothing else.

    Raises:
        RecipeError: something outside of the path differs, or the blocks are no path.
    """
    layers = recipe.layers.get(stack)
    if layers is None:
        raise RecipeError(f"The recipe has no block stack {stack!r}; this space searches it.")
    rest = replace(recipe, layers={}, options={})
    wanted = replace(frame, layers={}, options={})
    for name in ("host", "embeddings", "head", "dtype", "tokenizer", "seed"):
        if getattr(rest, name) != getattr(wanted, name):
            raise RecipeError(
                f"The recipe's {name} is not the one of this space, where only the path through "
                f"the blocks is searched."
            )
    return path_of(layers)
