"""The optimizer and the strategy of a checked search, and the recipe of a candidate."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evomerge.config.schema import GRADIENT, SearchConfig
from evomerge.errors import SearchError
from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.scores import violation
from evomerge.setup.checked import CheckedSearch
from evomerge.space.protocol import Gene, Space
from evomerge.strategy import kinds
from evomerge.strategy.protocol import Strategy

if TYPE_CHECKING:
    from evomerge.optimize.protocol import Optimizer


def make_strategy(checked: CheckedSearch) -> Strategy:
    """Return a new strategy with the search's seed.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    from evomerge.setup.descents import make_descents
    from evomerge.strategy.genome import GenomeStrategy

    kind = kinds.strategy_kind(checked.config.optimizer.name)
    if kind is not None:
        return kind.make(checked.config, checked.space, checked.objectives, checked.constraints)

    if checked.config.optimizer.descends:
        return make_descents(checked, generation_of(checked.config, checked.space))
    return GenomeStrategy(
        checked.space,
        make_optimizer(checked.config, checked.space.genes),
        checked.ranking.ordered,
        lambda scores: violation(checked.constraints, scores),
        checked.start,
    )


def generation_of(config: SearchConfig, space: Space) -> int:
    """Return the number of proposals in a generation of the strategy; 1: no generations.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    name, is_auto = config.optimizer.name, config.optimizer.population == "auto"
    if name == GRADIENT and config.mode == "pareto" and is_auto:
        return len(config.objectives) + 1  # one between the objectives, and one for each
    if name == GRADIENT or kinds.strategy_kind(name) is not None:
        return kinds.generation_of(config)
    return make_optimizer(config, space.genes).population


def check_optimizer(name: str) -> None:
    """Raise a `ConfigError` if there is no optimizer and no strategy of this name."""
    from evomerge.optimize import check_name, optimizer_names

    check_name(name, (*optimizer_names(), *kinds.strategy_names()))


def make_optimizer(config: SearchConfig, genes: Sequence[Gene]) -> Optimizer:
    """Return a new optimizer with the search's seed.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    from evomerge.optimize import create

    wanted = config.optimizer
    check_optimizer(wanted.name)
    return create(
        wanted.name,
        list(genes),
        config.seed,
        None if wanted.population == "auto" else wanted.population,
        wanted.sigma,
        config.budget.candidates,
        len(config.objectives) if config.mode == "pareto" else 1,
        wanted.options,
    )


def resolve_optimizer(config: SearchConfig, space: Space) -> SearchConfig:
    """Return the search file with the optimizer that `auto` means for the genes of its space."""
    from evomerge.optimize import choose

    wanted = config.optimizer
    if wanted.name != "auto" or not space.genes:
        return config
    population = None if wanted.population == "auto" else wanted.population
    return config.with_values("optimizer", name=choose(space.genes, population))


def recipe_of(space: Space, candidate: Candidate) -> Recipe:
    """Return a candidate's recipe, made again from its origin.

    Raises:
        SearchError: its digest is not the one in the journal.
    """
    recipe: Recipe | None
    if candidate.label is not None:
        recipe = space.baselines().get(candidate.label)
    else:
        try:
            recipe = space.decode(tuple(candidate.origin.get("genome", ())))
        except (ValueError, IndexError):
            recipe = None
    if recipe is None or recipe.digest != candidate.digest:
        raise SearchError(
            f"Candidate {candidate.number} no longer decodes to the recipe it was scored with; "
            "use the evomerge version that the run's manifest.json names."
        )
    return recipe
