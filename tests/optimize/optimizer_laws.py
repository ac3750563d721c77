"""All laws of optimizers: the contract, what they learn, and that they search well.

Searches of known functions (`PROBLEMS`) are compared with those of a reference: the same algorithm
in its own package, with as many trials and the same start. All seeds are fixed, so the outcome is
always the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from optimizer_runs import PROBLEMS, Problem

from evomerge.optimize.protocol import Optimizer
from evomerge.space.protocol import Gene, Genome
from evomerge.testing import GENES, check_optimizer
from evomerge.testing.optimizers import Create, random_genome

Told: TypeAlias = tuple[Sequence[float] | None, float]
"""The values and the violation of a trial."""

Tell: TypeAlias = Callable[[int, list[float]], Told]
"""Returns what is told of a trial: given its number, and values from minus the genes to 0."""

REPEATED = 0.2
"""Share of proposals that may be repeats in a large space without real genes."""

_LOWEST, _BEST = -1e6, 1.0


def check_learning(create: Create, genes: Sequence[Gene], objectives: int = 1) -> None:
    """Check that every outcome counts at once, that failures rank last, and that seeds matter."""
    population = create(genes, 3).population
    trials = max(30, 3 * population)

    def play(tell: Tell, seed: int = 3, count: int = trials) -> list[Genome]:
        return _play(create(genes, seed), genes, objectives, count, tell)

    def plain(trial: int, values: list[float]) -> Told:
        return values, 0.0

    assert play(plain) != play(plain, seed=4), "Two seeds give the same proposals."
    _check_each_counts(play, population, is_real=math.isinf(_size(genes)))
    _check_ranks(play, objectives, objectives == 1)
    if _size(genes) > 50 * trials:
        flat = play(lambda trial, values: ([0.5] * objectives, 0.0))
        repeats = len(flat) - len(set(flat))
        assert repeats <= REPEATED * len(flat), f"{repeats} of {len(flat)} proposals were repeats."


def _check_each_counts(play: Callable[..., list[Genome]], population: int, is_real: bool) -> None:
    """Check that the outcome of each of some trials changes what is proposed after its generation.

    Without real genes, only the first trials are tried: an optimizer that learns repeats without a
    trial completes its own generation earlier.
    """
    start = population * (1 + math.ceil(20 / population))
    chosen = {start, start + 1} | ({start + population - 1} if is_real else set())
    for trial in sorted(chosen):
        end = population * (trial // population + 1)

        def tell(number: int, values: list[float], told: float, trial: int = trial) -> Told:
            return ([told] * len(values) if number == trial else values), 0.0

        best, worst = (
            play(lambda number, values: tell(number, values, told), count=end)  # noqa: B023
            for told in (_BEST, _LOWEST)
        )
        assert best != worst, f"Of trial {trial}: it has not learned this outcome."


def _check_ranks(play: Callable[..., list[Genome]], objectives: int, by_value: bool) -> None:
    """Check that failures rank below violations, and these below all others, from the start on."""

    def played(failed: Told | None, broken: Callable[[Told], Told]) -> list[Genome]:
        """Search with failures, told as `failed`, None: as they are, or with violations as well."""

        def tell(trial: int, values: list[float]) -> Told:
            if trial < 3 or trial % 5 == 2:
                if failed is None:
                    return (None, [math.nan] * objectives, [math.inf] * objectives)[trial % 3], 0.0
                return failed
            return broken((values, 1 + trial / 7)) if trial % 3 == 1 else (values, 0.0)

        return play(tell)

    lowest, best = [_LOWEST] * objectives, [_BEST] * objectives
    with_failures = played(None, lambda told: told)
    others = {
        "By law, failures must rank below violations.": played((best, 1e9), lambda told: told),
        "The values of a trial that violates constraints must not count.": played(
            None, lambda told: (best, told[1])
        ),
    }
    if by_value:
        others["Failures and violations must rank last, as a value below all others."] = played(
            (lowest, 0.0), lambda told: ([-100 - told[1]], 0.0)
        )
    for law, other in others.items():
        assert with_failures == other, law


def _play(
    optimizer: Optimizer, genes: Sequence[Gene], objectives: int, trials: int, tell: Tell
) -> list[Genome]:
    """Search in generations, after one of random points, and ask for two more at the end."""
    random, population = np.random.RandomState(1), optimizer.population
    waiting = [random_genome(genes, random) for _ in range(population)]
    genomes: list[Genome] = []
    for trial in range(trials):
        if trial >= population:
            waiting.append(optimizer.ask())
            genomes.append(waiting[-1])
        if len(waiting) == population:
            for number, genome in enumerate(waiting, trial + 1 - population):
                optimizer.tell(genome, *tell(number, _values(genes, genome, objectives)))
            waiting.clear()
    return genomes + [optimizer.ask() for _ in range(2 * population + 10)]


def _values(genes: Sequence[Gene], genome: Genome, objectives: int) -> list[float]:
    """Return for each objective minus the squared distance from its best point, 0.3, 0.6 or 0.9."""
    places = np.array([(x - g.low) / (g.high - g.low) for g, x in zip(genes, genome, strict=True)])
    return [-float(((places - 0.3 * k) ** 2).sum()) for k in range(1, objectives + 1)]


def _size(genes: Sequence[Gene]) -> float:
    """Return the number of genomes in a space."""
    sizes = [math.inf if gene.kind == "real" else gene.high - gene.low + 1 for gene in genes]
    return math.prod(sizes)


Reference: TypeAlias = Callable[[Problem, int, int], float]
"""Searches a problem with a seed and a number of trials; returns the `quality` that it reaches."""

ERROR = 0.004
"""Largest probability with which an optimizer as good as its reference fails `check_search`; each
condition has an equal part of it."""

WORSE = "The reference searches better"


@dataclass(frozen=True)
class Condition:
    """How an optimizer is told.

    Attributes:
        width: number of open trials; None: a whole generation, told in the order of asking.
        baselines: told before the trials. `twice`: the start and two corners, each twice.
            `generation`: three random points or a generation of them; every third fails, and every
            third is NaN.
        faults: a tenth of the trials fail, a twentieth is NaN, and a twentieth is never told.
        share: of the trials that the reference gets, since the condition costs something.
    """

    width: int | None = 1
    baselines: Literal["none", "twice", "generation"] = "none"
    faults: bool = False
    share: float = 1.0


CONDITIONS: Mapping[str, Condition] = {
    "one open trial": Condition(),
    "a generation of open trials": Condition(width=None),
    "8 open trials": Condition(width=8, share=0.5),
    "baselines told twice": Condition(width=None, baselines="twice"),
    "a generation of baselines": Condition(width=None, baselines="generation"),
    "failures": Condition(faults=True, share=0.7),
}

FAST = ("a generation of open trials", "baselines told twice", "a generation of baselines")
"""The conditions of the short test, of which none costs an algorithm anything."""


def quality(problem: Problem, losses: Sequence[Sequence[float]]) -> float:
    """Return how good points are together: the smallest loss, or minus the hypervolume."""
    if problem.objectives == 1:
        return min((row[0] for row in losses), default=math.inf)
    from pymoo.indicators.hv import HV

    return -float(HV(ref_point=np.array(problem.worst))(np.array(losses))) if losses else 0.0


def losses(
    optimizer: Optimizer, problem: Problem, trials: int, condition: Condition, seed: int
) -> list[tuple[float, ...]]:
    """Search a problem; return the losses of the proposals, those of baselines not included."""
    order = np.random.RandomState(seed)
    baselines = _baselines(problem.genes, condition, optimizer.population, order)
    for number, genome in enumerate(baselines):
        fate = (1.0, 0.05, 0.12)[number % 3] if condition.baselines == "generation" else 1.0
        _tell(optimizer, problem, genome, fate)
    width = condition.width or optimizer.population
    is_real = any(gene.kind == "real" for gene in problem.genes)
    found: list[tuple[float, ...]] = []
    asked = set(baselines)
    waiting: list[Genome] = []
    for _ in range(trials):
        genome = optimizer.ask()
        found.append(problem.losses(genome))
        assert not is_real or genome not in asked, "A genome was proposed again."
        if found[-1] == (0.0,):  # nothing is better
            break
        asked.add(genome)
        waiting.append(genome)
        if len(waiting) == width:
            for _ in range(width if condition.width is None else 1):
                fate = order.rand() if condition.faults else 1.0
                _tell(optimizer, problem, waiting.pop(0), fate)
    return found


def check_search(
    create: Create,
    reference: Reference | None = None,
    objectives: int = 1,
    problems: Sequence[str] = ("sphere", "mixed", "one-max", "zdt1", "dtlz2"),
    conditions: Sequence[str] = FAST,
    trials: int = 150,
    seeds: int = 10,
    first_seed: int = 0,
) -> None:
    """Check that an optimizer searches as well as the algorithm that it names.

    In every condition, it must be no worse than the reference, the algorithm in its own package: a
    one-sided rank-sum test (Mann & Whitney 1947), whose rank sums are pooled over the problems (van
    Elteren 1960), finds no difference. Without a reference, it must be better than random search,
    by the same test with an error of 1 %. In both cases half of the seeds must still improve in the
    last two thirds of the trials, where there are real genes.

    `problems` with another number of objectives are left out. There are `seeds` searches with each
    problem and condition, at least 5, and twice as many of the reference, whose seeds begin 1,000
    later. `WORSE` is in the message of an optimizer that is worse by comparison.
    """
    chosen = {name: PROBLEMS[name] for name in problems if PROBLEMS[name].objectives == objectives}
    known: dict[tuple[str, int], list[float]] = {}

    def others(name: str, count: int) -> list[float]:
        """Return what the reference, or random search, reaches on a problem."""
        if (name, count) not in known:
            run, later = reference or _random_search, first_seed + 1000
            numbers = range(later, later + 2 * seeds)
            known[name, count] = [run(chosen[name], number, count) for number in numbers]
        return known[name, count]

    for label in conditions if chosen else ():
        condition, pairs = CONDITIONS[label], []
        for name, problem in chosen.items():
            runs = [
                losses(create(problem.genes, seed), problem, trials, condition, seed)
                for seed in range(first_seed, first_seed + seeds)
            ]
            own = [quality(problem, run) for run in runs]
            pairs.append((own, others(name, int(trials * (condition.share if reference else 1)))))
            if any(gene.kind == "real" for gene in problem.genes):
                early = [quality(problem, run[: trials // 3]) for run in runs]
                still = sum(after < before for before, after in zip(early, own, strict=True))
                stalled = f"It found nothing better on {name}, with {label}: it has stalled."
                assert 2 * still >= seeds, stalled
        worse = rank_sum(pairs)
        if reference is None:
            assert worse < 0.01, f"It is not better than random search, with {label}."
            continue
        medians = [
            f"{np.median(own):.3g} against {np.median(other):.3g} on {name}"
            for name, (own, other) in zip(chosen, pairs, strict=True)
        ]
        assert 1 - worse > ERROR / len(conditions), (
            f"{WORSE}, with {label}; medians of the losses: {', '.join(medians)}."
        )


def rank_sum(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> float:
    """Return the probability that as good a search has smaller rank sums than the others.

    Returns:
        the probability that the sum over problems is at most as large as found, by the normal
        approximation with the variance of tied ranks; near 0 the search is better, near 1 worse.
    """
    from scipy.stats import norm, rankdata

    distance = variance = 0.0
    for own, others in pairs:
        ranks = rankdata([*own, *others])
        count, mean = len(ranks), (len(ranks) + 1) / 2
        distance += float((ranks[: len(own)] - mean).sum())
        spread = float(((ranks - mean) ** 2).sum())
        variance += len(own) * len(others) / (count * (count - 1)) * spread
    return float(norm.cdf(distance / math.sqrt(variance))) if variance else 0.5


def _tell(optimizer: Optimizer, problem: Problem, genome: Genome, fate: float) -> None:
    values = [-loss for loss in problem.losses(genome)]
    if fate < 0.1:
        optimizer.tell(genome, None)
    elif fate < 0.15:
        optimizer.tell(genome, [math.nan] * len(values))
    elif fate >= 0.2:
        optimizer.tell(genome, values)


def _baselines(
    genes: Sequence[Gene], condition: Condition, population: int, random: np.random.RandomState
) -> list[Genome]:
    """Return the genomes that a condition tells first."""
    if condition.baselines == "generation":
        return [random_genome(genes, random) for _ in range(max(3, population))]
    start = tuple(float(gene.start) for gene in genes)
    corners = [start, tuple(gene.low for gene in genes), tuple(gene.high for gene in genes)]
    return 2 * corners if condition.baselines == "twice" else []


def _random_search(problem: Problem, seed: int, trials: int) -> float:
    random = np.random.RandomState(seed)
    found = [problem.losses(random_genome(problem.genes, random)) for _ in range(trials)]
    return quality(problem, found)


def check_laws(
    create: Create, genes: Sequence[Gene] = GENES, trials: int = 200, objectives: int = 1
) -> None:
    """Check all laws of an optimizer that learns."""
    check_optimizer(lambda genes, setting: create(genes, setting.seed), genes, trials, objectives)
    check_learning(create, genes, objectives)
