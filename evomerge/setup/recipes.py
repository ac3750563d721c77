"""Checking, without reading weights, that the recipes of a space can be built.

Three recipes are checked: those of the genome where the search starts, of the genome with every
gene at its lowest value, and of the one with every gene at its highest value.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from evomerge.errors import ConfigError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.space.protocol import Space

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.rows import MatchedRows

START = "where the search starts"


def sample_recipes(space: Space) -> dict[str, Recipe]:
    """Return the recipes of three genomes by a description for messages, the start first."""
    genomes = {
        START: tuple(
            gene.start if gene.kind == "real" else float(math.floor(gene.start))
            for gene in space.genes
        ),
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

    Raises:
        InputError: one of the recipes cannot be built.
    """
    from evomerge.merging.architecture.depth import merged_config
    from evomerge.merging.architecture.folding import fold_scales
    from evomerge.merging.architecture.loadable import check_loadable
    from evomerge.merging.tensors.plan import Planner

    planner = Planner(checkpoints, host)
    for name, recipe in recipes.items():
        stacks = recipe.layers.items()
        plain = {prefix: tuple(replace(item, scale=1.0) for item in of) for prefix, of in stacks}
        try:
            deque(planner.plan(replace(recipe, layers=plain), vocabulary), maxlen=0)
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
