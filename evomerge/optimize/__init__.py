"""Optimizers by name. Importing this package imports neither numpy nor an optimizer.

Another package adds one with an entry point of the group `evomerge.optimizers` whose object is a
`Factory`; `evomerge.testing.check_optimizer` checks that it keeps the protocol.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from inspect import signature
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from evomerge.errors import ConfigError, EvomergeError, among, one_line
from evomerge.optimize.protocol import Setting, with_replay
from evomerge.parsing.values import shown
from evomerge.registry import Registry

if TYPE_CHECKING:
    from evomerge.optimize.protocol import Optimizer
    from evomerge.space.protocol import Gene

Factory: TypeAlias = "Callable[..., Optimizer]"
"""Creates an optimizer of genes with a `Setting`; its keyword-only parameters are its options."""


@dataclass(frozen=True, kw_only=True)
class Builtin:
    """An optimizer of this package.

    Attributes:
        about: one line about it, as `evomerge list optimizers` prints it.
        factory: its `Factory`, as `module:function` of this package; empty where `create` knows.
        has_population: whether `optimizer.population` is a setting of it.
        least_population: smallest population that suits it.
        most_workers: largest of 1, 4, 16, 64 workers with which it keeps nine tenths of its gain by
            arrival (benchmarks/lag.py). None: it does not learn from outcomes, or not measured.
        most_objectives: largest number of objectives that it can search a front of.
        first: number of genomes that it proposes before it learns anything.
        is_believing: whether it compares the candidates of one generation only, and has a mean.
        documents: documents of all tasks together that are enough where all candidates have the
            same (docs/documents.md). None: it lost by fewer than usual, or was not measured.
        packages: names of the packages whose versions may change its proposals.
        papers: the publications of the algorithm.
    """

    about: str
    factory: str = ""
    has_population: bool = False
    least_population: int = 4
    most_workers: int | None = None
    objectives: Literal["one", "several", "any"] = "one"
    most_objectives: int | None = None
    first: int = 0
    is_believing: bool = False
    documents: int | None = None
    packages: tuple[str, ...] = ()
    papers: tuple[str, ...] = ()


def _cma(about: str, factory: str, package: str, *papers: str) -> Builtin:
    return Builtin(
        about=about,
        factory=factory,
        has_population=True,
        most_workers=16,
        is_believing=True,
        documents=50,
        packages=(package,),
        papers=papers,
    )


MANY_GENES = 200
"""With more genes, CMA-ES learns variances only: the full covariance takes more trials than it
saves."""

GP_GENES, GP_CANDIDATES, GP_OBJECTIVES = 60, 100, 3
"""With at most so many genes and candidates, a Gaussian process finds the best merges. For a front
of three objectives it takes 1 s a proposal, of four up to 8 s; of six, 60 candidates took 40 GB."""

GP_FIRST = 12
"""Genomes around the start before the first model, normally distributed (`optimizer.sigma`) by a
Sobol sequence; at most 16. Of many genes, uniform ones are all far from every good merge."""

BUILTIN: Mapping[str, Builtin] = {
    "auto": Builtin(
        about="the one that suits the genes and the budget; the default",
        has_population=True,
        most_workers=16,
        objectives="any",
    ),
    "gp": Builtin(
        about="Bayesian optimization with a Gaussian process, by Optuna; for few, expensive ones",
        factory="gp:GaussianProcess",
        has_population=True,
        least_population=2,
        most_workers=4,
        objectives="any",
        most_objectives=GP_OBJECTIVES,
        first=GP_FIRST,
        packages=("optuna", "scipy"),
        papers=("Ament et al. 2023, arXiv 2310.20708", "Akiba et al. 2019, arXiv 1907.10902"),
    ),
    "cma": _cma(
        "CMA-ES with full covariance, as in arXiv 2403.13187",
        "cma:CMA",
        "cma",
        "Hansen and Ostermeier 2001, doi 10.1162/106365601750190398",
    ),
    "diagonal-cma": _cma(
        "CMA-ES that learns variances only; for many genes",
        "cma:DiagonalCMA",
        "cma",
        "Ros and Hansen 2008, doi 10.1007/978-3-540-87700-4_30",
    ),
    "cma-margin": _cma(
        "CMA-ES with margin, and with probabilities of choices; for many discrete genes",
        "margin:create_margin",
        "cmaes",
        "Hamano et al. 2025, arXiv 2504.07884",
        "Hamano et al. 2022, arXiv 2205.13482",
    ),
    "two-points-de": Builtin(
        about="differential evolution with two-point crossover",
        factory="evolution:create_two_points",
        has_population=True,
        most_workers=16,
        documents=50,
        packages=("nevergrad",),
        papers=("Storn and Price 1997, doi 10.1023/A:1008202821328",),
    ),
    "discrete-lengler": Builtin(
        about="(1+1) with a decreasing mutation rate; for choices rather than numbers",
        factory="evolution:create_discrete_lengler",
        most_workers=4,
        documents=50,
        packages=("nevergrad",),
        papers=("Einarsson et al. 2018, arXiv 1808.05566",),
    ),
    "nsga2": Builtin(
        about="NSGA-II, for `mode: pareto`",
        factory="pareto:NondominatedSorting",
        has_population=True,
        objectives="several",
        papers=("Deb et al. 2002, doi 10.1109/4235.996017",),
    ),
    "nevergrad:NAME": Builtin(
        about="an optimizer of nevergrad by its name there, such as nevergrad:OnePlusOne",
        packages=("nevergrad",),
    ),
    "random": Builtin(
        about="uniform random search; a baseline",
        factory="sampling:create_random",
        objectives="any",
    ),
    "sobol": Builtin(
        about="Sobol sequence; covers the space more evenly than random search",
        factory="sampling:create_sobol",
        objectives="any",
        packages=("scipy",),
    ),
    "grid": Builtin(
        about="all corners, then finer and finer grids; for two or three genes",
        factory="sampling:create_grid",
        objectives="any",
    ),
}

NEVERGRAD = "nevergrad:"
"""Begins the names of nevergrad's optimizers; the row `nevergrad:NAME` is about all of them."""

OPTIMIZERS: Registry[Factory] = Registry(
    "optimizer",
    "evomerge.optimizers",
    {name: f"evomerge.optimize.{row.factory}" for name, row in BUILTIN.items()},
)


def optimizer_names() -> dict[str, str]:
    """Return every optimizer with one line about it: name -> line."""
    own = {name: row.about for name, row in BUILTIN.items()}
    return {name: own.get(name, "added by another package") for name in OPTIMIZERS.names()}


def builtin(name: str) -> Builtin | None:
    """Return the row of an optimizer; None if another package adds it, or there is none."""
    return BUILTIN.get("nevergrad:NAME" if name.startswith(NEVERGRAD) else name)


def check_name(name: str, names: Sequence[str]) -> None:
    """Raise a ConfigError if there is no such optimizer."""
    if name not in names and not name.startswith(NEVERGRAD):
        raise ConfigError(f"optimizer.name is {name!r}; available are {among(name, names)}")


def choose(
    genes: Sequence[Gene],
    population: int | None = None,
    candidates: int | None = None,
    objectives: int = 1,
) -> str:
    """Return the name of the optimizer that `auto` is for some genes (docs/optimizers.md).

    With a population (`optimizer.population`, None: `auto`), it is one that has a population.
    `candidates` is the budget; None: there is no largest number.
    """
    discrete = sum(gene.kind != "real" for gene in genes)
    switches = sum(gene.switch for gene in genes)
    few = candidates is not None and candidates <= GP_CANDIDATES and objectives <= GP_OBJECTIVES
    if few and population is None and not discrete + switches and len(genes) <= GP_GENES:
        return "gp"
    if objectives > 1:
        return "nsga2"
    if 2 * (discrete + switches) > len(genes):
        one_by_one = population is None and switches > discrete
        return "discrete-lengler" if one_by_one else "two-points-de"
    if len(genes) > MANY_GENES:
        return "diagonal-cma"
    return "cma-margin" if discrete else "cma"


def create(
    name: str,
    genes: Sequence[Gene],
    seed: int,
    population: int | None = None,
    sigma: float = 1 / 6,
    budget: int | None = None,
    objectives: int = 1,
    options: Mapping[str, Any] | None = None,
    *,
    is_fresh: bool = False,
) -> Optimizer:
    """Return a new optimizer; `name` is one of `optimizer_names()`, and for the rest see `Setting`.

    Raises:
        ConfigError: the name is unknown, or a setting does not suit the optimizer.
    """
    if not genes:
        raise ConfigError("The space has no genes, so there is nothing to search.")
    options = dict(options or {})
    check_setting(name, objectives, population, options)
    setting = Setting(
        seed=seed, population=population, sigma=sigma, budget=budget, objectives=objectives,
        is_fresh=is_fresh,
    )  # fmt: skip
    name = choose(genes, population, budget, objectives) if name == "auto" else name
    if name.startswith(NEVERGRAD):
        from evomerge.optimize.evolution import create_named

        return create_named(genes, setting, name.removeprefix(NEVERGRAD))
    try:
        return with_replay(OPTIMIZERS.get(name)(genes, setting, **options))
    except Exception as error:
        if isinstance(error, EvomergeError) or builtin(name) is not None:
            raise
        raise ConfigError(
            f"optimizer.name is {name!r}, which cannot be made with the options {shown(options)} "
            f"({type(error).__name__}: {one_line(error)}); correct them, or the package that adds "
            "the optimizer."
        ) from error


def check_setting(
    name: str, objectives: int, population: int | None, options: Mapping[str, Any]
) -> None:
    """Raise a ConfigError if an optimizer lacks an option, or a setting does not suit it."""
    row, wrong = builtin(name), None
    try:
        takes = [] if row else [*signature(OPTIMIZERS.get(name)).parameters.values()]
    except (TypeError, ValueError):  # no function, or one of C, whose parameters nobody knows
        takes = []
    allowed = [item.name for item in takes if item.kind is item.KEYWORD_ONLY]
    for key, value in options.items():
        if key not in allowed and not any(item.kind is item.VAR_KEYWORD for item in takes):
            raise ConfigError(
                f"optimizer.options of {name!r} has the unknown key `{key}` ({shown(value)}); "
                f"allowed are {among(key, allowed)}"
            )
    if row is None:
        return
    if objectives > 1 and row.objectives == "one":
        several = ", ".join(item for item, row in BUILTIN.items() if row.objectives != "one")
        wrong = (
            f"name is {name!r}, which has one objective, but `mode: pareto` has {objectives}; "
            f"choose one of {several}, or set `mode` to weighted"
        )
    elif objectives == 1 and row.objectives == "several":
        wrong = (
            f"name is {name!r}, which needs several objectives; set `mode` to pareto with two "
            "objectives or more, or choose another optimizer"
        )
    elif objectives > (most := row.most_objectives or objectives):
        wrong = f"name is {name!r}, for up to {most} objectives, not {objectives}; take nsga2"
    elif population is not None and not row.has_population:
        wrong = f"population is {population}, but {name!r} has no population; set it to auto"
    elif population is not None and population < row.least_population:
        wrong = f"population is {population}; it must be {row.least_population} or more, or auto"
    if wrong is not None:
        raise ConfigError(f"optimizer.{wrong}.")
