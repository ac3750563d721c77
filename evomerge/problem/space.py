"""The search space that a search file asks for, made for the opened parents."""

import math
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError, RecipeError, SearchError, among
from evomerge.merging.architecture.depth import merged_config
from evomerge.merging.architecture.loadable import check_loadable
from evomerge.merging.tensors.plan import Planner
from evomerge.merging.tokenizers.rows import MatchedRows
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.space.frame import host_of
from evomerge.space.protocol import Gene, Space

START = "where the search starts"


def make_space(
    config: SearchConfig, checkpoints: Mapping[str, Checkpoint], genes: Sequence[str] = ()
) -> Space:
    """Return the space that a search file asks for.

    Args:
        genes: names of the genes of a run that goes on, which keeps them.

    ConfigError: this kind of space does not use a key, or settings do not fit each other or the
    parents.
    """
    own: Space | None = config.optimizer.space(config, checkpoints[host_of(config)])
    if own is not None:
        return own
    made: Space = config.space.make(config, checkpoints, genes)
    return made


def check_hosts(config: SearchConfig) -> Iterator[str]:
    """Yield a sentence about each giver of config, embeddings or head that is no parent."""
    for key, name in config.space.givers.items():
        if name is not None and name not in config.parents:
            yield (
                f"`space.{key}` is {name!r}; it must be one of the parents "
                f"{among(name, config.parents)}"
            )


def sample_recipes(space: Space) -> dict[str, Recipe]:
    """Return the recipes of three genomes by a description for messages, the start first."""

    def start(gene: Gene) -> float:
        return gene.start if gene.kind == "real" else float(math.floor(gene.start))

    return {
        START: space.decode(tuple(map(start, space.genes))),
        "with every gene at its lowest": space.decode(tuple(gene.low for gene in space.genes)),
        "with every gene at its highest": space.decode(tuple(gene.high for gene in space.genes)),
    }


def check_recipes(
    recipes: Mapping[str, Recipe],
    checkpoints: Mapping[str, Checkpoint],
    host: str,
    vocabulary: MatchedRows | None = None,
) -> None:
    """Plan every tensor of these recipes, and fold the scales of the first one into its weights.

    In others the product of the scales may be too large: the candidate fails, not the space.

    InputError: one of the recipes cannot be built.
    """
    from evomerge.merging.architecture.folding import fold_scales

    planner = Planner(checkpoints, host, vocabulary)
    for name, recipe in recipes.items():
        stacks = recipe.layers.items()
        plain = {prefix: tuple(replace(item, scale=1.0) for item in of) for prefix, of in stacks}
        try:
            deque(planner.plan(replace(recipe, layers=plain)), maxlen=0)
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


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe, made again from its origin.

    SearchError: its digest is not the one in the journal.
    """
    label, genome = candidate.label, tuple(candidate.origin.get("genome", ()))
    recipe: Recipe | None
    try:
        recipe = space.decode(genome) if label is None else space.baselines().get(label)
    except (ValueError, IndexError):
        recipe = None
    if recipe is None or recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version that the run's manifest.json names."
        )
    return recipe
