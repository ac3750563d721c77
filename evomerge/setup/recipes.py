"""Checking, without reading weights, that the recipes of a space can be built.

Three recipes are checked: those of the genome where the search starts, of the genome with every
gene at its lowest value, and of the one with every gene at its highest value. Of blocks that are
merged in the same way only one is planned, so that 60 layers of 128 experts take no longer than
one.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
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
    from evomerge.merging.tokenizers.protocol import Vocabulary


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
    vocabulary: Vocabulary | None = None,
) -> None:
    """Plan every tensor of these recipes, and fold the scales of the first one into its weights.

    In other recipes the product of the scales may be too large or too small. Such a candidate
    fails, but the space is not wrong.

    Args:
        recipes: those of `sample_recipes`.
        vocabulary: the merged vocabulary, if rows are matched by token.

    Raises:
        InputError: one of the recipes cannot be built.
    """
    from evomerge.merging.architecture.depth import merged_config
    from evomerge.merging.architecture.folding import fold_scales
    from evomerge.merging.architecture.loadable import check_loadable
    from evomerge.merging.tensors.plan import Planner

    planner = Planner(checkpoints, host)
    one_of_each = _one_of_each(planner)
    for name, recipe in recipes.items():
        try:
            unscaled = _unscaled(recipe)
            try:
                deque(planner.plan(one_of_each(unscaled), vocabulary), maxlen=0)
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
    return gene.start if gene.kind == "real" else float(math.floor(gene.start))


def _unscaled(recipe: Recipe) -> Recipe:
    """Return a recipe with all scales at 1."""
    stacks = recipe.layers.items()
    plain = {name: tuple(replace(item, scale=1.0) for item in layers) for name, layers in stacks}
    return replace(recipe, layers=plain)


def _one_of_each(planner: Planner) -> Callable[[Recipe], Recipe]:
    """Return what leaves only one of the blocks of a recipe that are merged in the same way.

    These have the same method and knobs, and tensors of the same names, shapes and dtypes.
    """
    numbers: dict[object, int] = {}

    @cache
    def content(prefix: str, parent: str, layer: int | None) -> object:
        stack = planner.fit(parent).stacks.get(prefix)
        if stack is None or layer is None or layer not in range(len(stack)):
            return "no such block", layer  # the planner raises the error
        tensors = planner.checkpoints[parent].tensors
        infos = ((rest, tensors[stack.name(layer, rest)]) for rest in stack.blocks[layer])
        found = tuple((rest, info.shape, info.dtype) for rest, info in infos)
        return numbers.setdefault(found, len(numbers))  # a number is fast to compare and hash

    def kind(prefix: str, layer: Layer) -> object:
        inputs = (*layer.sources, *([layer.base] if layer.base else []))
        parents = tuple((item.parent, content(prefix, item.parent, item.layer)) for item in inputs)
        return layer.method, parents, repr([layer.knobs, *(item.knobs for item in inputs)])

    def reduced(recipe: Recipe) -> Recipe:
        few = {
            prefix: tuple({kind(prefix, layer): layer for layer in layers}.values())
            for prefix, layers in recipe.layers.items()
        }
        return replace(recipe, layers=few)

    return reduced


LEAST = 3
"""Smallest number of parents of a greedy soup; of two it is the uniform merge or the better one."""


def check_baselines(config: SearchConfig, space: Space) -> None:
    """Check that the baselines that a search file asks for can be made.

    Raises:
        ConfigError: the greedy soup cannot be made.
    """
    if "greedy_soup" not in config.baselines:
        return
    uniform = space.baselines().get(UNIFORM)
    if config.mode == "pareto":
        reason = (
            "adds parents as long as one score does not drop, but with `mode` 'pareto' there are "
            "several scores"
        )
    elif uniform is None:
        reason = f"averages parents, but `space.kind` {config.space.kind!r} merges no weights"
    elif (count := len(averaged(uniform))) < LEAST:
        reason = f"takes {LEAST} parents or more beside the base, but there are {count}"
    else:
        return
    raise ConfigError(f"`baselines` has 'greedy_soup', which {reason}; remove it.")


def count_baselines(config: SearchConfig, space: Space) -> int:
    """Return how many candidates of a search are baselines, with the steps to the greedy soup."""
    baselines = space.baselines()
    soup = len(averaged(baselines[UNIFORM])) if "greedy_soup" in config.baselines else 0
    return len(baselines) + soup
