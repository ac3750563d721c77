"""The optimizer that a search file asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.space.protocol import Space
from evomerge.strategy.kinds import STRATEGIES

if TYPE_CHECKING:
    from evomerge.optimize.protocol import Optimizer


def resolve_optimizer(config: SearchConfig, space: Space) -> SearchConfig:
    """Return the search file with the optimizer that `auto` means for the genes of its space."""
    from evomerge.optimize.auto import choose

    wanted = config.optimizer
    if wanted.name != "auto" or not space.genes:
        return config
    population = None if wanted.population == "auto" else wanted.population
    chosen = wanted.model_copy(update={"name": choose(space.genes, population)})
    return config.model_copy(update={"optimizer": chosen})


def make_optimizer(config: SearchConfig, space: Space) -> Optimizer:
    """Return a new optimizer with the search's seed.

    Raises:
        ConfigError: there is no such optimizer, or a setting does not suit it.
    """
    from evomerge.optimize import check_name, create, optimizer_names

    wanted = config.optimizer
    check_name(wanted.name, (*optimizer_names(), *STRATEGIES.names()))
    population = None if wanted.population == "auto" else wanted.population
    return create(
        wanted.name,
        list(space.genes),
        config.seed,
        population,
        wanted.sigma,
        config.budget.candidates,
        len(config.objectives) if config.mode == "pareto" else 1,
        wanted.options,
    )
