"""Compares ways in which optimizers see genes that are choices, on functions with known optima.

    python benchmarks/choices.py [--quick] [--seeds N] [--candidates N] [--functions NAME ...]

A function has choices of three to five values, whose values have no order, and numbers:

- `methods`: one choice of four values, and 12 numbers. As with merge methods, each value has a best
  loss of its own, and three of the numbers matter only with one value each.
- `mixed`: four choices of 3, 4, 4 and 5 values, and 8 numbers whose best values depend on them.
- `parents`: 24 choices of four values; half of the loss is about a choice and its neighbour.

Ways to see a choice:

- `ordered`: one coordinate with a cell for each value, from the first value on.
- `quantiles`: one coordinate, whose cells are hit equally often in a first sample.
- `keys`: a coordinate for each value; the largest decides.
- `native`: what the optimizer has for categories: CatCMA of cmaes.

The table shows the mean over the seeds of the regret: the best loss after all candidates minus the
lowest possible one, and its standard error. A seed chooses the function, too: which value of each
choice is the best is random. The last line is one JSON object: function, optimizer, way -> regret.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Sequence

import numpy as np

from evomerge.optimize import cma, create, cube, evolution, margin
from evomerge.space.protocol import Gene, Genome

SIZES = {"methods": ([4], 12), "mixed": ([3, 4, 4, 5], 8), "parents": ([4] * 24, 0)}


class Ordered(cube.Cube):
    """Cells for choices, from the first value on."""

    def __init__(
        self, genes: Sequence[Gene], sigma: float, choices: cube.Choices = "cells"
    ) -> None:
        super().__init__(genes, sigma, "cells")
        for place, gene in enumerate(genes):
            if gene.kind == "choice":
                self.start[place] = 0.5 / (gene.high + 1)


class Quantiles(cube.Cube):
    """Cells for choices, hit equally often in a first sample."""

    def __init__(
        self, genes: Sequence[Gene], sigma: float, choices: cube.Choices = "cells"
    ) -> None:
        super().__init__(genes, sigma, "quantiles")


class Keys(cube.Cube):
    """A coordinate for each value of a choice."""

    def __init__(self, genes: Sequence[Gene], sigma: float, choices: cube.Choices = "keys") -> None:
        super().__init__(genes, sigma, "keys")


KINDS = {"ordered": Ordered, "quantiles": Quantiles, "keys": Keys, "native": cube.Cube}

WAYS: dict[str, tuple[str, ...]] = {
    "cma": ("ordered", "quantiles", "keys"),
    "diagonal-cma": ("ordered", "quantiles", "keys"),
    "cma-margin": ("ordered", "native"),
    "two-points-de": ("ordered", "quantiles", "keys"),
    "nevergrad:DE": ("ordered", "quantiles", "keys"),
    "nevergrad:PSO": ("ordered", "quantiles", "keys"),
    "nevergrad:OnePlusOne": ("ordered", "quantiles", "keys"),
    "discrete-lengler": ("ordered", "quantiles", "keys"),
    "random": ("native",),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two seeds, 40 candidates")
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--candidates", type=int, default=300)
    parser.add_argument("--functions", nargs="+", choices=list(SIZES), default=list(SIZES))
    parser.add_argument("--optimizers", nargs="+", choices=list(WAYS), default=list(WAYS))
    options = parser.parse_args()
    seeds = range(2 if options.quick else options.seeds)
    candidates = 40 if options.quick else options.candidates
    found: dict[str, float] = {}
    for function in options.functions:
        print(f"\n{function}: regret after {candidates} candidates, {len(seeds)} seeds")
        for name in options.optimizers:
            for way in WAYS[name]:
                regrets = [search(name, way, function, seed, candidates) for seed in seeds]
                mean, error = np.mean(regrets), np.std(regrets) / math.sqrt(len(regrets))
                print(f"{name:20} {way:10} {mean:7.3f} +- {error:.3f}", flush=True)
                found[f"{function} {name} {way}"] = float(mean)
    print(json.dumps(found))


def search(name: str, way: str, function: str, seed: int, candidates: int) -> float:
    """Return the regret of a search in which the optimizer sees choices in one of the ways."""
    genes, loss = make(function, seed)
    for module in (cma, evolution):
        module.Cube = KINDS[way]  # type: ignore[attr-defined]
    if way == "ordered" and name == "cma-margin":
        optimizer = margin.MarginCMA(Ordered(genes, 1 / 6), seed, None)
    else:
        optimizer = create(name, genes, seed)  # type: ignore[assignment]
    best = math.inf
    for _ in range(candidates):
        trial, genome = optimizer.ask()
        value = loss(genome)
        best = min(best, value)
        optimizer.tell(trial, [-value])
    return best


def make(function: str, seed: int) -> tuple[list[Gene], Callable[[Genome], float]]:
    """Return the genes and the loss of a function, whose smallest value is 0."""
    sizes, numbers = SIZES[function]
    random = np.random.RandomState(seed)
    choices = [
        Gene(f"c{place}", "choice", 0, size - 1, 0, choices=tuple(map(str, range(size))))
        for place, size in enumerate(sizes)
    ]
    genes = [*choices, *(Gene(f"x{place}", "real", 0.0, 1.0, 0.5) for place in range(numbers))]
    # The values of a choice lose 0, 0.1, 0.2, ..., in a random order.
    losses = [0.1 * random.permutation(size) for size in sizes]
    pairs = [random.uniform(0, 0.2, (size, size)) for size in sizes]
    best = [int(row.argmin()) for row in losses]
    targets = random.uniform(0.1, 0.9, (max(sizes), numbers))

    def loss(genome: Genome) -> float:
        chosen, x = [int(value) for value in genome[: len(sizes)]], np.array(genome[len(sizes) :])
        total = sum(float(row[value]) for row, value in zip(losses, chosen, strict=True))
        if function == "methods":
            own = np.arange(numbers) // 3 == chosen[0]
            return total + float((own * (x - targets[0]) ** 2).sum())
        if function == "mixed":
            rows = [chosen[place % len(chosen)] for place in range(numbers)]
            return total + float(((x - targets[rows, range(numbers)]) ** 2).sum())
        for place, pair in enumerate(pairs[:-1]):
            here, beside = chosen[place], chosen[place + 1]
            if (here, beside) != (best[place], best[place + 1]):
                total += float(pair[here, beside])
        return total

    return genes, loss


if __name__ == "__main__":
    main()
