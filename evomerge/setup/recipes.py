"""Whether a space's recipes can be built, found out without reading a weight.

Three genomes stand for all: the start of the search, every gene at its lowest, every gene at its
highest. Blocks that are merged alike are planned once, so that 60 layers of 128 experts cost no
more than one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

from evomerge.errors import ConfigError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe
from evomerge.space.protocol import Gene, Space

if TYPE_CHECKING:
    from evomerge.merge.tensors.plan import Planner
    from evomerge.merge.tokenizers.protocol import Vocabulary

START = "where the search starts"


def sample_recipes(space: Space) -> dict[str, Recipe]:
    """Return the recipes of three genomes, by what a person calls them, the start first."""
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
    vocabulary: Vocabulary | None = None,
) -> None:
    """Plan every tensor of some recipes, and fold the scales of the one at the start.

    Scales of other recipes may multiply to too large or small a number: that rules out a
    candidate, not a space.

    Args:
        recipes: as `sample_recipes` gives them.
        checkpoints: the parents by reference.
        host: reference of the host.
        vocabulary: the merged vocabulary where rows are matched by token.

    Raises:
        InputError: one of them cannot be built.
    """
    from evomerge.merge.architecture.depth import merged_config
    from evomerge.merge.architecture.folding import fold_scales
    from evomerge.merge.tensors.plan import Planner

    planner = Planner(checkpoints, host)
    alike = _Alike(planner)
    for name, recipe in recipes.items():
        try:
            merged_config(recipe, checkpoints, vocabulary=vocabulary)
            unscaled = _unscaled(recipe)
            try:
                deque(planner.plan(alike.one_of_each(unscaled), vocabulary), maxlen=0)
            except RecipeError:  # of which block, the whole recipe says
                deque(planner.plan(unscaled, vocabulary), maxlen=0)
        except RecipeError as error:
            raise ConfigError(
                f"`space` holds recipes that cannot be built, such as the one {name}: {error}"
            ) from error
    try:
        fold_scales(recipes[START], checkpoints[host])
    except RecipeError as error:
        raise ConfigError(
            f"`space.scales` must be nearer to 1, for the recipe {START} cannot be built: {error}"
        ) from error


def _start(gene: Gene) -> float:
    return gene.start if gene.kind == "real" else float(math.floor(gene.start))


def _unscaled(recipe: Recipe) -> Recipe:
    stacks = recipe.layers.items()
    plain = {name: tuple(replace(item, scale=1.0) for item in layers) for name, layers in stacks}
    return replace(recipe, layers=plain)


class _Alike:
    """Tells which blocks of recipes are merged alike: equal methods, knobs and kinds of blocks."""

    def __init__(self, planner: Planner) -> None:
        self.planner = planner
        self._block = cache(self._read)
        self._numbers: dict[object, int] = {}

    def one_of_each(self, recipe: Recipe) -> Recipe:
        """Return a recipe with one of all blocks that are merged alike."""
        few = {
            prefix: tuple({self._kind(prefix, layer): layer for layer in layers}.values())
            for prefix, layers in recipe.layers.items()
        }
        return replace(recipe, layers=few)

    def _kind(self, prefix: str, layer: Layer) -> object:
        inputs = (*layer.sources, *([layer.base] if layer.base else []))
        parents = tuple(
            (item.parent, self._block(prefix, item.parent, item.layer)) for item in inputs
        )
        knobs = (layer.knobs, *(item.knobs for item in inputs))
        return layer.method, parents, tuple(map(repr, knobs))

    def _read(self, prefix: str, parent: str, layer: int | None) -> object:
        """Return what tells a parent's block from others: its tensors, their shapes and dtypes.

        Equal content has one number, since comparing and hashing the content is slow.
        """
        stack = self.planner.fit(parent).stacks.get(prefix)
        if stack is None or layer is None or layer not in range(len(stack)):
            return "no such block", layer  # as the plan will say
        tensors = self.planner.checkpoints[parent].tensors
        infos = ((rest, tensors[stack.name(layer, rest)]) for rest in stack.blocks[layer])
        content = tuple((rest, info.shape, info.dtype) for rest, info in infos)
        return self._numbers.setdefault(content, len(self._numbers))
