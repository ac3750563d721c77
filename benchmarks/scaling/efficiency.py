"""Simulated efficiency over the number of workers, and where it breaks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from scaling.searches import Setting, space_of_200_genes
from scaling.simulation import Simulated, Uneven, simulate

TARGET = 0.9
"""Efficiency at which the workers are said to be well used."""

GENERATIONS = 4
"""Generations of a search whose population is a multiple of the workers, at most."""

PER_WORKER = 2
"""This multiple."""


@dataclass(frozen=True)
class Row:
    """One simulation.

    Attributes:
        kind: the optimizer and how its population is chosen.
        seconds: mean seconds of a candidate.
        setting: what was searched.
        result: what came out.
    """

    kind: str
    seconds: float
    setting: Setting
    result: Simulated


def simulations(workers: Sequence[int], means: Sequence[float], most: int) -> Iterator[Row]:
    """Simulate searches by arrival and by generation.

    Args:
        workers: numbers of workers.
        means: mean seconds of a candidate; searches by generation are simulated with the first.
        most: largest number of candidates of one search, unless that would be less than three for
            each worker by arrival, or one generation.
    """
    space = space_of_200_genes()
    for mean in means:
        for count in workers:
            population = PER_WORKER * count
            rounds = max(1, min(GENERATIONS, most // population))
            arriving = max(400, min(most, 10 * count), 3 * count)
            settings = {
                "random, arrival": Setting(space, "random", "arrival", arriving),
                "cma, generation of 19": Setting(space, "cma", "generation", 20 * 19 + 6),
                f"cma, generation of {PER_WORKER} x workers": Setting(
                    space, "cma", "generation", rounds * population + 6, population
                ),
            }
            for kind, setting in settings.items():
                # How long a candidate takes matters little where generations are the limit.
                if mean == means[0] or setting.order == "arrival":
                    yield Row(kind, mean, setting, simulate(setting, count, Uneven(mean)))


def breaks_at(rows: Sequence[Row]) -> float | None:
    """Return the number of workers at which efficiency falls below `TARGET`; None: it does not.

    It is interpolated between the logarithms of the numbers that were simulated.
    """
    points = [(row.result.workers, row.result.efficiency) for row in rows]
    if points[0][1] < TARGET:
        return float(points[0][0])
    for (fewer, better), (more, worse) in pairwise(points):
        if worse < TARGET:
            share = (better - TARGET) / (better - worse)
            return math.exp(math.log(fewer) + share * (math.log(more) - math.log(fewer)))
    return None


def lines(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Return the simulations that belong together, by name, with growing numbers of workers."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(f"{row.seconds:g} s a candidate; {row.kind}", []).append(row)
    return found


HEAD = (
    f"{'seconds a candidate; optimizer, order':56}{'workers':>8}{'candidates':>11}{'busy':>8}"
    f"{'to the end':>11}{'driver, ms':>11}{'optimizer':>10}{'transfer':>9}{'most a second':>14}"
)


def line(row: Row) -> str:
    """Return a row of the table."""
    found = row.result
    name = f"{row.seconds:g} s; {row.kind}"
    return (
        f"{name:56}{found.workers:8}{found.candidates:11}{found.efficiency:8.1%}"
        f"{found.to_the_end:11.1%}{1000 * found.driver:11.2f}{1000 * found.optimizer:10.2f}"
        f"{1000 * found.sent:9.2f}{1 / found.driver:14.0f}"
    )


def show_limits(rows: Sequence[Row]) -> dict[str, float]:
    """Print where efficiency falls below the target, and return the named ratios."""
    ratios: dict[str, float] = {}
    print(f"\nWorkers at which less than {TARGET:.0%} of their time is used")
    for name, group in lines(rows).items():
        where = breaks_at(group)
        most = group[-1].result.workers
        print(f"{name:64}{f'more than {most}' if where is None else f'{where:.0f}':>16}")
        for row in group:
            if row.setting.order == "arrival":
                key = f"efficiency, arrival, {row.result.workers} workers, {row.seconds:g} s"
                ratios[key] = round(row.result.efficiency, 3)
    return ratios
