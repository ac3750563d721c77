"""The best fitness over wall time, by simulation on a recorded landscape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.searching.loop import Order
from scaling.landscape import Landscape
from scaling.searches import Setting
from scaling.simulation import Simulated, Uneven, simulate

SHARE = 0.9
"""Share of the best recorded fitness that searches are timed to."""


@dataclass(frozen=True)
class Course:
    """The searches of one optimizer in one order on one number of workers, with several seeds.

    Attributes:
        optimizer: name of the optimizer.
        order: when it is told outcomes.
        population: trials in a generation; None: the optimizer's own number.
        workers: number of workers.
        runs: one simulation for each seed.
    """

    optimizer: str
    order: Order
    population: int | None
    workers: int
    runs: Sequence[Simulated]

    @property
    def name(self) -> str:
        """The optimizer, the order, and the population if it is set."""
        population = "" if self.population is None else f" of {self.population}"
        return f"{self.optimizer}, {self.order}{population}"

    def best_at(self, seconds: float) -> float:
        """Return the best fitness after this many seconds, as the mean of the seeds."""
        found = []
        for run in self.runs:
            until = [value for when, value in run.best if when <= seconds]
            found.append(until[-1] if until else 0.0)
        return float(np.mean(found))

    def seconds_to(self, fitness: float) -> float | None:
        """Return the median of the seconds until a fitness is reached; None: most never did."""
        found = [
            next((when for when, value in run.best if value >= fitness), np.inf)
            for run in self.runs
        ]
        median = float(np.median(found))
        return median if np.isfinite(median) else None


def courses(
    landscape: Landscape, workers: Sequence[int], candidates: int, seeds: int, uneven: Uneven
) -> list[Course]:
    """Simulate searches of several optimizers on several numbers of workers.

    Args:
        landscape: the fitness of recipes.
        workers: numbers of workers.
        candidates: candidates of each search.
        seeds: number of searches of each kind.
        uneven: how long a candidate takes.
    """
    found = []
    for count in workers:
        kinds: list[tuple[str, Order, int | None]] = [
            ("random", "arrival", None),
            ("nevergrad:OnePlusOne", "arrival", None),
            ("cma", "generation", None),
            ("cma", "arrival", None),
        ]
        if count > 16:
            kinds.insert(3, ("cma", "generation", count))
        for optimizer, order, population in kinds:
            runs = [
                simulate(
                    Setting(landscape.space, optimizer, order, candidates, population, seed=seed),
                    count,
                    uneven,
                    landscape.score,
                )
                for seed in range(seeds)
            ]
            found.append(Course(optimizer, order, population, count, runs))
    return found


def goal_of(landscape: Landscape) -> float:
    """Return the fitness whose time is measured: `SHARE` of the best recorded one."""
    return SHARE * max(landscape.recorded.values())


def show(landscape: Landscape, rows: Sequence[Course], times: Sequence[float]) -> None:
    """Print the best fitness over wall time."""
    top, goal = max(landscape.recorded.values()), goal_of(landscape)
    seeds = len(rows[0].runs)
    print(
        f"\nBest fitness over wall time, simulated on the recorded landscape: "
        f"{len(landscape.recorded)} recipes,\nthe best {100 * top:.1f} %; interpolation error "
        f"{100 * landscape.error:.1f} points; mean of {seeds} seeds"
    )
    heads = "".join(f"{seconds / 60:>7.0f} min" for seconds in times)
    print(f"{'workers':>8}  {'optimizer, order':30}{heads}{'s to ' + f'{100 * goal:.0f} %':>14}")
    for row in rows:
        values = "".join(f"{100 * row.best_at(seconds):11.1f}" for seconds in times)
        reached = row.seconds_to(goal)
        text = "never" if reached is None else f"{reached:.0f}"
        print(f"{row.workers:8}  {row.name:30}{values}{text:>14}")


def ratios(landscape: Landscape, rows: Sequence[Course]) -> dict[str, float]:
    """Return how much sooner than with 8 workers the fitness is reached, by kind and workers."""
    goal, found = goal_of(landscape), {}
    few = {row.name: row.seconds_to(goal) for row in rows if row.workers == 8}
    for row in rows:
        before, after = few.get(row.name.partition(" of ")[0]), row.seconds_to(goal)
        if row.workers > 8 and before is not None and after is not None:
            key = f"times sooner than 8 workers: {row.name}, {row.workers} workers"
            found[key] = round(before / after, 2)
    return found
