"""Optimizers by name; importing this imports neither nevergrad nor numpy.

Another package adds one by an entry point of the group `evomerge.optimizers` that leads to a
function with the arguments of `create`, the name left out; `evomerge.testing.check_optimizer`
tests that it can be resumed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

from evomerge.errors import ConfigError, did_you_mean
from evomerge.registry import Registry

if TYPE_CHECKING:
    from evomerge.optimize.protocol import Optimizer
    from evomerge.space.protocol import Gene

Factory: TypeAlias = "Callable[[Sequence[Gene], int, int | None, float, int | None], Optimizer]"

ADDED: Registry[Factory] = Registry("optimizer", "evomerge.optimizers", {})
"""Optimizers that other packages add."""

MANY_GENES = 200
"""Above as many genes `auto` learns variances only: full covariance costs more than it finds."""

_NAMES: Mapping[str, str] = {
    "auto": f"cma up to {MANY_GENES} genes, diagonal-cma above",
    "cma": "CMA-ES with full covariance, as evolutionary model merge used it",
    "diagonal-cma": "CMA-ES that learns variances only; for many genes",
    "cma-margin": "CMA-ES with margin; for many binary or choice genes",
    "de": "differential evolution",
    "two-points-de": "differential evolution with two-point crossover",
    "pso": "particle swarm optimization",
    "one-plus-one": "(1+1) evolution strategy; cheap to run, local",
    "discrete-lengler": "(1+1) with a falling mutation rate; for choices rather than numbers",
    "random": "uniform random search; a baseline",
    "sobol": "Sobol sequence; an evener random search",
    "grid": "all corners, then ever finer; for two or three genes",
}
_WITH_POPULATION = ("auto", "cma", "diagonal-cma", "cma-margin", "de", "two-points-de", "pso")


def optimizer_names() -> dict[str, str]:
    """Return every optimizer's name with a line about it."""
    added = {name: "added by another package" for name in ADDED.names() if name not in _NAMES}
    return {**_NAMES, **added}


def create(
    name: str,
    genes: Sequence[Gene],
    seed: int,
    population: int | None = None,
    sigma: float = 1 / 6,
    budget: int | None = None,
) -> Optimizer:
    """Return a new optimizer.

    Args:
        name: one of `optimizer_names()`.
        genes: what is searched, one gene or more.
        seed: seed of all its random numbers, 0 or more.
        population: trials in a generation, or None for the optimizer's own choice.
        sigma: initial step of genes without their own, as a share of their range, in (0, 1].
        budget: planned number of trials, if known; checked, never used for proposals, so that it
            can be raised later.

    Raises:
        ConfigError: the name is unknown, or an option does not suit the optimizer.
    """
    names = optimizer_names()
    if name not in names:
        raise ConfigError(
            f"optimizer.name is {name!r}; available are {', '.join(names)}."
            f"{did_you_mean(name, names)}"
        )
    if not genes:
        raise ConfigError("The space has no genes, so there is nothing to search.")
    if not 0 < sigma <= 1:
        raise ConfigError(
            f"optimizer.sigma is {sigma!r}; it must be above 0 and at most 1, a share of a gene's "
            "range, for example 0.1667."
        )
    if name not in _NAMES:
        return ADDED.get(name)(genes, seed, population, sigma, budget)
    if population is not None and name not in _WITH_POPULATION:
        raise ConfigError(
            f"optimizer.population is {population}, but {name!r} has no population; set it to auto."
        )
    if population is not None and population < 4:
        raise ConfigError(f"optimizer.population is {population}; it must be 4 or more, or auto.")
    if name == "auto":
        name = "cma" if len(genes) <= MANY_GENES else "diagonal-cma"

    from evomerge.optimize import evolution
    from evomerge.optimize import sampling as fixed
    from evomerge.optimize.cube import Cube
    from evomerge.optimize.margin import MarginCMA

    cube = Cube(genes, sigma)
    match name:
        case "cma" | "diagonal-cma":
            return evolution.CMA(cube, seed, population, diagonal=name == "diagonal-cma")
        case "cma-margin":
            return MarginCMA(cube, seed, population)
        case "de" | "two-points-de":
            crossover = 0.5 if name == "de" else "twopoints"
            return evolution.differential(cube, seed, population, crossover)
        case "pso":
            return evolution.swarm(cube, seed, population)
        case "one-plus-one":
            return evolution.one_plus_one(cube, seed, "gaussian")
        case "discrete-lengler":
            return evolution.one_plus_one(cube, seed, "lengler")
        case "random":
            return fixed.random_search(cube, seed)
        case "sobol":
            return fixed.sobol_search(cube, seed)
        case _:
            return fixed.grid_search(cube, budget)
