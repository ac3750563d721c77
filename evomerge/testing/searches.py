"""The law that an optimizer runs the algorithm it names: it searches as well as that algorithm.

Searches of known functions (`PROBLEMS`) are compared with those of a reference: the same algorithm
in its own package, with as many trials and the same start. All seeds are fixed, so the outcome is
always the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from evomerge.optimize.protocol import Optimizer
from evomerge.space.protocol import Gene, Genome
from evomerge.testing.problems import PROBLEMS, Problem
from evomerge.testing.require import require

Create: TypeAlias = Callable[[Sequence[Gene], int], Optimizer]
"""Returns a new optimizer of genes with a seed."""

Reference: TypeAlias = Callable[[Problem, int, int], float]
"""Searches a problem with a seed and a number of trials; returns the `quality` that it reaches."""

ERROR = 0.005
"""Probability with which an optimizer as good as its reference fails one comparison."""


@dataclass(frozen=True)
class Condition:
    """How an optimizer is told.

    Attributes:
        width: number of open trials; None: a whole generation, told in the order of asking.
        baselines: whether the start and two corners are enqueued and told, all of them twice.
        faults: whether a tenth of the trials fail, a twentieth is NaN, and a twentieth is never
            told.
        share: so much of the trials the reference gets, since the condition costs something.
    """

    width: int | None = 1
    baselines: bool = False
    faults: bool = False
    share: float = 1.0


CONDITIONS: Mapping[str, Condition] = {
    "one open trial": Condition(),
    "a generation of open trials": Condition(width=None),
    "8 open trials": Condition(width=8, share=0.5),
    "baselines told twice": Condition(width=None, baselines=True, share=0.9),
    "failures": Condition(faults=True, share=0.7),
}


FAST = ("a generation of open trials", "baselines told twice", "failures")
"""The conditions that `check_optimizer` tries."""


def quality(problem: Problem, losses: Sequence[Sequence[float]]) -> float:
    """Return how good the found points are together; lower is better.

    Args:
        problem: the problem.
        losses: the losses of each point.

    Returns:
        the smallest loss, if there is one objective; else minus the hypervolume.
    """
    if problem.objectives == 1:
        return min((row[0] for row in losses), default=math.inf)
    from pymoo.indicators.hv import HV

    return -float(HV(ref_point=np.array(problem.worst))(np.array(losses))) if losses else 0.0


def search(
    optimizer: Optimizer, problem: Problem, trials: int, condition: Condition, seed: int
) -> list[tuple[float, ...]]:
    """Search a problem; return the losses of the proposals, those of baselines not included.

    Raises:
        AssertionError: a genome was proposed that had been asked before.
    """
    order = np.random.RandomState(seed)
    baselines = 2 * list(_baselines(problem.genes)) if condition.baselines else []
    for genome in baselines:
        optimizer.enqueue(genome)
    width = condition.width or optimizer.population
    found: list[tuple[float, ...]] = []
    asked: set[Genome] = set()
    waiting: list[tuple[int, Genome]] = []
    for number in range(trials):
        trial, genome = optimizer.ask()
        is_real = any(gene.kind == "real" for gene in problem.genes)
        require(
            number < len(baselines) or genome not in asked or not is_real,
            "A genome was proposed again, although there is an infinite number of others.",
        )
        asked.add(genome)
        waiting.append((trial, genome))
        if number >= len(baselines):
            found.append(problem.losses(genome))
        if len(waiting) == width:
            for _ in range(width if condition.width is None else 1):
                _tell(optimizer, problem, *waiting.pop(0), order.rand() if condition.faults else 1)
    return found


def check_search(
    create: Create,
    reference: Reference | None = None,
    objectives: int = 1,
    problems: Sequence[str] = ("sphere", "mixed", "zdt1", "dtlz2"),
    conditions: Sequence[str] = FAST,
    trials: int = 150,
    seeds: int = 5,
) -> None:
    """Check that an optimizer searches as well as the algorithm that it names.

    In every condition, it must be no worse than the reference on each problem: a one-sided
    rank-sum test of the seeds (Mann & Whitney 1947) finds no difference, with an error of 0.5 % in
    each comparison. Without a reference, it must be better than random search on each problem, all
    conditions together, with an error of 5 %. In both cases half of the seeds must still improve in
    the last two thirds of the trials (not on problems without real genes, where the optimum may be
    found before).

    Args:
        create: a function of genes and a seed that returns a new optimizer.
        reference: the algorithm in its own package, or None.
        objectives: number of values that the optimizer is told for each trial.
        problems: names of `PROBLEMS`; those with another number of objectives are left out.
        conditions: names of `CONDITIONS`.
        trials: number of trials in each search.
        seeds: number of searches with each problem and condition, at least 5.

    Raises:
        AssertionError: it is worse, stalls, or proposes a genome twice.
    """
    for name in problems:
        problem, found = PROBLEMS[name], []
        if problem.objectives != objectives:
            continue
        for label in conditions:
            condition, where = CONDITIONS[label], f"on {name}, with {label}"
            runs = [
                search(create(problem.genes, seed), problem, trials, condition, seed)
                for seed in range(seeds)
            ]
            own = [quality(problem, run) for run in runs]
            found += own
            if reference is not None:
                few = int(condition.share * trials)
                _check_rank(own, [reference(problem, 1000 + i, few) for i in range(seeds)], where)
            if any(gene.kind == "real" for gene in problem.genes):
                early = [quality(problem, run[: trials // 3]) for run in runs]
                still = sum(after < before for before, after in zip(early, own, strict=True))
                require(2 * still >= seeds, f"It found nothing better {where}: it has stalled.")
        if reference is None:
            others = [_random_search(problem, 1000 + i, trials) for i in range(len(found))]
            better = _rank_sum(found, others, "less")
            require(better < 0.05, f"It is not better than random search on {name}.")


def _check_rank(own: Sequence[float], others: Sequence[float], where: str) -> None:
    require(
        _rank_sum(own, others, "greater") > ERROR,
        f"The reference searches better: losses {_numbers(own)} {where}, against "
        f"{_numbers(others)}.",
    )


def _rank_sum(own: Sequence[float], others: Sequence[float], alternative: str) -> float:
    from scipy.stats import mannwhitneyu

    return float(mannwhitneyu(own, others, alternative=alternative).pvalue)


def check_choices(create: Create, objectives: int = 1, seeds: int = 100) -> None:
    """Check that all values of a choice are equally likely at first, wherever they stand.

    As long as all candidates score the same, an optimizer cannot know which value is better. The
    values of the first proposal of all seeds are tested (chi-square), and the shares of the values
    in the first five, each with an error of one in ten thousand.

    Args:
        create: a function of genes and a seed that returns a new optimizer.
        objectives: number of values that the optimizer is told for each trial.
        seeds: number of searches.

    Raises:
        AssertionError: some values are more likely than others.
    """
    from scipy.stats import chisquare

    method = Gene("method", "choice", 0, 3, 0, choices=("a", "b", "c", "d"))
    genes = (Gene("x", "real", 0.0, 1.0, 0.5), method, Gene("y", "real", 0.0, 1.0, 0.5))
    drawn = np.zeros((seeds, 5), int)
    for seed in range(seeds):
        optimizer = create(genes, seed)
        for number in range(5):
            trial, genome = optimizer.ask()
            drawn[seed, number] = genome[1]
            optimizer.tell(trial, [0.5] * objectives)
    first = np.bincount(drawn[:, 0], minlength=4)
    require(
        chisquare(first).pvalue > 1e-4,
        f"The first proposals of {seeds} seeds have the four values of a choice {first.tolist()} "
        "times; at first all should be equally likely.",
    )
    shares = np.array([np.bincount(row, minlength=4) / 5 for row in drawn])
    error = np.maximum(shares.std(axis=0), 0.01) / math.sqrt(seeds)
    means = shares.mean(axis=0)
    require(
        (abs(means - 0.25) < 4 * error).all(),
        f"The four values of a choice have the shares {_numbers(means)} among the first proposals, "
        "although all candidates score the same; all should be equally likely.",
    )


def _tell(optimizer: Optimizer, problem: Problem, trial: int, genome: Genome, fate: float) -> None:
    values = [-loss for loss in problem.losses(genome)]
    if fate < 0.1:
        optimizer.tell(trial, None)
    elif fate < 0.15:
        optimizer.tell(trial, [math.nan] * len(values))
    elif fate >= 0.2:
        optimizer.tell(trial, values)


def _baselines(genes: Sequence[Gene]) -> tuple[Genome, ...]:
    start = tuple(float(gene.start) for gene in genes)
    return start, tuple(gene.low for gene in genes), tuple(gene.high for gene in genes)


def _random_search(problem: Problem, seed: int, trials: int) -> float:
    random = np.random.RandomState(seed)
    found = []
    for _ in range(trials):
        genome = tuple(
            random.uniform(gene.low, gene.high)
            if gene.kind == "real"
            else float(random.randint(round(gene.low), round(gene.high) + 1))
            for gene in problem.genes
        )
        found.append(problem.losses(genome))
    return quality(problem, found)


def _numbers(values: Sequence[float] | np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
    return ", ".join(f"{value:.3g}" for value in values)
