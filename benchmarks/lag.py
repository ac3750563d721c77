"""Measures what an optimizer loses if it is told outcomes late and in another order.

    python benchmarks/lag.py [--quick] [--seeds N] [--candidates N ...] [--optimizers NAME ...]

With `executor.order: arrival` and W workers, an optimizer proposes a candidate while W - 1 others
are not scored yet (the *lag*), and is told outcomes in the order in which they arrive. Here such a
search is simulated: W candidates are open at a time, and each takes a lognormal time. It searches
landscapes, which are functions of 8 and of 32 genes whose best value is 1: `sphere` (its middle is
off the centre) and `ellipsoid` (rotated, condition number 100), both with Gaussian noise, and
`documents` (the share of 200 documents that are answered; far away from the middle none is).
`slots` has 96 binary genes.

The result of a search is the best value without noise of the five candidates with the best noisy
scores. Its *gain* is 0 if the result is as good as that of random search or as the centre, where
all searches start (the better one of the two), and 1 if it is the best value. The tables show the
mean gain with one worker, and of the same search in other settings as a share of it, with the
standard error over seeds of the paired difference. Beside `arrival W` there is `generation`, the
order without lag, and both orders with a population of 64 (`p64`). The last table shows how long a
search takes in either order.

The last line is one JSON object: optimizer, setting and number of candidates -> share of the gain
with one worker; and order `arrival` -> its time as a share of that of order `generation`.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from evomerge.optimize import BUILTIN, builtin, create
from evomerge.space.protocol import Gene, Genome

FINALISTS = 5
DOCUMENTS = 200
NOISE = 0.02
SPREAD = 0.5  # of the logarithm of a candidate's time: half of them take 0.71 to 1.4 of the median
WORKERS = (4, 16, 64)

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Landscape:
    """A function to be maximised.

    Attributes:
        name: for the table.
        genes: what is searched.
        value: genome -> value without noise, in [0, 1].
        observed: value and random generator -> value with noise.
    """

    name: str
    genes: tuple[Gene, ...]
    value: Callable[[Genome], float]
    observed: Callable[[float, np.random.Generator], float]


def landscapes(seed: int, quick: bool) -> Iterator[Landscape]:
    """Yield all landscapes; the places of their middles are drawn with the seed."""
    for count in (8,) if quick else (8, 32):
        random = np.random.default_rng([seed, count])
        genes = tuple(Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(count))
        middle = random.uniform(0.1, 0.9, count)
        turn = np.linalg.qr(random.standard_normal((count, count)))[0]
        axes = np.logspace(0, 2, count)

        def sphere(genome: Genome, middle: Vector = middle) -> float:
            return math.exp(-20 * float(((np.array(genome) - middle) ** 2).mean()))

        def ellipsoid(
            genome: Genome, middle: Vector = middle, turn: Vector = turn, axes: Vector = axes
        ) -> float:
            away = turn @ (np.array(genome) - middle)
            return math.exp(-20 * float((axes / axes.mean() * away**2).mean()))

        yield Landscape(f"sphere {count}", genes, sphere, gaussian)
        yield Landscape(f"ellipsoid {count}", genes, ellipsoid, gaussian)
        yield Landscape(f"documents {count}", genes, sphere, answered)
    if not quick:
        path = np.random.default_rng([seed, 96]).permutation([1] * 36 + [0] * 60)
        genes = tuple(Gene(f"slot{i}", "binary", 0, 1, 0.5) for i in range(96))

        def slots(genome: Genome) -> float:
            return math.exp(-0.06 * float((np.array(genome) != path).sum()))

        yield Landscape("slots 96", genes, slots, answered)


def gaussian(value: float, random: np.random.Generator) -> float:
    """Return a value with Gaussian noise."""
    return value + NOISE * random.standard_normal()


def answered(value: float, random: np.random.Generator) -> float:
    """Return a share of answered documents: binomial noise, and a plateau at 0."""
    return random.binomial(DOCUMENTS, value if value > 0.1 else 0.0) / DOCUMENTS


@dataclass(frozen=True)
class Setting:
    """How outcomes are told.

    Attributes:
        order: as `executor.order`.
        workers: number of candidates that are scored at a time.
        population: as `optimizer.population`; None: `auto`.
    """

    order: Literal["arrival", "generation"]
    workers: int
    population: int | None = None

    def __str__(self) -> str:
        workers = "" if self.order == "generation" else f" {self.workers}"
        return f"{self.order}{workers}{f' p{self.population}' if self.population else ''}"


PLAIN = Setting("arrival", 1)


def settings(name: str) -> list[Setting]:
    """Return the settings in which an optimizer is measured, one worker first."""
    at_once = [Setting("arrival", workers) for workers in WORKERS]
    if not builtin(name).has_population:
        return [PLAIN, *at_once]
    most = WORKERS[-1]
    large = [Setting("arrival", most, most), Setting("generation", most, most)]
    return [PLAIN, Setting("generation", 1), *at_once, *large]


def arrivals(workers: int, count: int, random: np.random.Generator) -> tuple[list[int], float]:
    """Return which candidates arrive one after the other, and when the last one does.

    The next candidate starts as soon as another one has arrived. Times are in units of the mean
    time of a candidate.
    """
    times = random.lognormal(-(SPREAD**2) / 2, SPREAD, count)
    running = [(times[number], number) for number in range(min(workers, count))]
    heapq.heapify(running)
    order, now, started = [], 0.0, len(running)
    while running:
        now, number = heapq.heappop(running)
        order.append(number)
        if started < count:
            heapq.heappush(running, (now + times[started], started))
            started += 1
    return order, now


def search(
    name: str, landscape: Landscape, setting: Setting, count: int, seed: int
) -> tuple[Vector, Vector]:
    """Run a search; return its candidates' values without noise and their scores."""
    optimizer = create(name, landscape.genes, seed, setting.population)
    noise = np.random.default_rng([seed, 1])
    values, scores = np.zeros(count), np.zeros(count)
    genomes: list[Genome] = []

    def ask() -> None:
        trial = len(genomes)
        genomes.append(optimizer.ask())
        values[trial] = landscape.value(genomes[trial])
        scores[trial] = landscape.observed(values[trial], noise)

    if setting.order == "generation":
        for start in range(0, count, optimizer.population):
            generation = range(start, min(count, start + optimizer.population))
            for _ in generation:
                ask()
            for trial in generation:
                optimizer.tell(genomes[trial], [scores[trial]])
        return values, scores
    order, _ = arrivals(setting.workers, count, np.random.default_rng([seed, 2]))
    for _ in range(min(setting.workers, count)):
        ask()
    for told, trial in enumerate(order, start=setting.workers):
        optimizer.tell(genomes[trial], [scores[trial]])
        if told < count:
            ask()
    return values, scores


def result(values: Vector, scores: Vector) -> float:
    """Return the best value of the candidates with the best scores."""
    return float(values[np.argsort(-scores, kind="stable")[:FINALISTS]].max())


Gains = dict[tuple[str, Setting, int], list[float]]
"""Optimizer, setting and number of candidates -> gain in every landscape."""


def measure(names: Sequence[str], seed: int, counts: Sequence[int], quick: bool) -> Gains:
    """Run all searches with a seed; print a line for each landscape."""
    gains: Gains = {}
    for landscape in landscapes(seed, quick):
        baseline = search("random", landscape, PLAIN, max(counts), 1000 + seed)
        start = landscape.value(tuple(gene.start for gene in landscape.genes))
        zeros = {n: max(start, result(*(row[:n] for row in baseline))) for n in counts}
        for name in names:
            for setting in settings(name):
                rows = search(name, landscape, setting, max(counts), seed)
                for n in counts:
                    gain = (result(*(row[:n] for row in rows)) - zeros[n]) / (1 - zeros[n])
                    gains.setdefault((name, setting, n), []).append(gain)
        print(f"seed {seed}: {landscape.name} done", flush=True)
    return gains


def show(seeds: Sequence[Gains], names: Sequence[str], count: int) -> dict[str, float]:
    """Print the table for a number of candidates, and return its ratios."""
    ratios: dict[str, float] = {}
    print(f"\n{count} candidates: gain with one worker, and shares of it in other settings")
    for name in names:
        plain = np.array([gains[name, PLAIN, count] for gains in seeds])
        print(f"\n{name}: gain {plain.mean():.3f} with one worker")
        for setting in settings(name)[1:]:
            found = np.array([gains[name, setting, count] for gains in seeds])
            share = float(found.mean() / plain.mean())
            lost = (found - plain).mean(axis=1)
            error = lost.std(ddof=1) / math.sqrt(len(seeds)) / plain.mean() if seeds[1:] else 0.0
            print(f"  {setting!s:16}{share:6.2f} +-{error:5.2f}")
            ratios[f"{name}, {setting}, {count}"] = round(share, 3)
    return ratios


def show_times(count: int, seeds: int) -> dict[str, float]:
    """Print how long a search takes in either order, and return the ratios of the two."""
    ratios = {}
    print(f"\ntime of {count} candidates, in units of the mean time of one")
    print(f"{'workers':>8}{'generation of':>15}{'generation':>12}{'arrival':>10}{'ratio':>8}")
    for workers in WORKERS:
        for population in sorted({14, workers, 4 * workers}):
            sizes = [population] * (count // population) + [count % population]
            spent = {"generation": 0.0, "arrival": 0.0}
            for seed in range(seeds):
                random = np.random.default_rng([seed, workers, population])
                spent["generation"] += sum(arrivals(workers, n, random)[1] for n in sizes)
                spent["arrival"] += arrivals(workers, count, random)[1]
            whole, at_once = (spent[order] / seeds for order in ("generation", "arrival"))
            print(f"{workers:8}{population:15}{whole:12.1f}{at_once:10.1f}{at_once / whole:8.2f}")
            ratios[f"time, {workers} workers, generation of {population}"] = round(
                at_once / whole, 3
            )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, 8 genes, 300 candidates")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--candidates", type=int, nargs="+", default=[300, 1000])
    parser.add_argument("--optimizers", nargs="+", help="by default all that learn")
    options = parser.parse_args()
    # `auto` is `cma` or `diagonal-cma`; the others do not learn from outcomes.
    names = options.optimizers or [
        *(n for n in BUILTIN if n not in ("auto", "random", "sobol", "grid", "nevergrad:NAME")),
        *("nevergrad:DE", "nevergrad:PSO", "nevergrad:OnePlusOne"),
    ]
    seeds, counts = (2, [300]) if options.quick else (options.seeds, options.candidates)
    measured = [measure(names, seed, counts, options.quick) for seed in range(seeds)]
    ratios: dict[str, float] = {}
    for count in counts:
        ratios |= show(measured, names, count)
    ratios |= show_times(max(counts), seeds)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
