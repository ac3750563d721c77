"""The laws of optimizers that learn, beside those of `evomerge.testing`."""

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

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


def check_laws(
    create: Create, genes: Sequence[Gene] = GENES, trials: int = 200, objectives: int = 1
) -> None:
    """Check all laws of an optimizer that learns."""
    check_optimizer(lambda genes, setting: create(genes, setting.seed), genes, trials, objectives)
    check_learning(create, genes, objectives)
