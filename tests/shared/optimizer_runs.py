"""Long searches by every optimizer, to compare processes, and functions that they minimise.

As a script, this file prints the searches. The best point of each problem with one objective lies
away from the start, from the bounds and from the diagonal, so that no optimizer finds it by the way
it begins.
"""

import json
import math
import random
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from evomerge.optimize import BUILTIN, builtin, create
from evomerge.space.protocol import Gene, Genome
from evomerge.testing.optimizers import play

MIXED = [
    Gene("weight", "real", 0.0, 2.0, 1.0),
    Gene("narrow", "real", 0.0, 1.0, 0.0, sigma=0.01),
    Gene("count", "integer", 2, 9, 5),
    Gene("method", "choice", 0, 2, 0, choices=("a", "b", "c")),
    Gene("flag", "binary", 0, 1, 0.5),
]
OF_NEVERGRAD = ["nevergrad:OnePlusOne", "nevergrad:DE", "nevergrad:PSO"]
NAMES = [name for name in BUILTIN if name not in ("nevergrad:NAME", "gp")] + OF_NEVERGRAD
"""The optimizers; tests/optimize/test_gp.py is about `gp`, whose proposals take a while."""
COUNTS = {
    name: {"one": (1,), "several": (2, 3), "any": (1, 2)}[builtin(name).objectives]
    for name in NAMES
}
"""The numbers of objectives with which each optimizer is tried."""
ONE = [name for name in NAMES if 1 in COUNTS[name]]
"""The optimizers that can have one objective."""
WIDTHS = (1, 4, 32, 50)
"""Open trials at a time; 50 is more than any default population."""


def make(name, genes, seed):
    """Return a new optimizer, for as many objectives as it has been tried with at most."""
    return create(name, genes, seed, objectives=COUNTS[name][-1])


def several(name, value):
    """Return a value for each objective of an optimizer that `make` has made."""
    return [value, -2 * value, value * value][: COUNTS[name][-1]]


def all_searches():
    """Return the searches of all optimizers; numbers are hexadecimal text, which keeps all bits."""
    return {
        f"{name} {width}": [
            [float(value).hex() for value in genome]
            for genome in play(make(name, MIXED, 3), MIXED, 100, width, 0.2, COUNTS[name][-1])
        ]
        for name in NAMES
        for width in WIDTHS
    }


@dataclass(frozen=True)
class Problem:
    """A function of genomes that is minimised: `losses` of 0 or more, one for each objective."""

    genes: tuple[Gene, ...]
    losses: Callable[[Genome], tuple[float, ...]]
    objectives: int = 1
    worst: tuple[float, ...] = ()


def _reals(count: int) -> tuple[Gene, ...]:
    return tuple(Gene(f"x{place}", "real", 0.0, 1.0, 0.5) for place in range(count))


_BEST = np.array([0.71, 0.24, 0.38, 0.83, 0.29, 0.66, 0.17, 0.77])
_BITS = np.array([1, 1, 0, 1, 0, 0, 0, 1, 0, 1] * 2)
_MIXED = (
    *_reals(4),
    Gene("count", "integer", 0, 9, 4),
    Gene("method", "choice", 0, 3, 0, choices=("a", "b", "c", "d")),
    *(Gene(f"flag{place}", "binary", 0, 1, place % 2) for place in range(4)),
)


def _sphere(genome: Genome) -> tuple[float]:
    return (float(((np.array(genome) - _BEST) ** 2).sum()),)


def _ellipsoid(genome: Genome) -> tuple[float]:
    """Axes of very different lengths: the condition number is 10^4."""
    weights = 10 ** (4 * np.arange(len(_BEST)) / (len(_BEST) - 1))
    return (float((weights * (np.array(genome) - _BEST) ** 2).sum()),)


def _rastrigin(genome: Genome) -> tuple[float]:
    """Many local optima, about seven along each gene."""
    x = 6 * (np.array(genome) - _BEST)
    return (float((x * x + 10 * (1 - np.cos(2 * math.pi * x))).sum()),)


def _one_max(genome: Genome) -> tuple[float]:
    """The number of wrong bits."""
    return (float((np.array(genome) != _BITS).sum()),)


def _mixed(genome: Genome) -> tuple[float]:
    """Numbers, a whole number, a choice and bits, which matter alike and do not interact."""
    numbers = 4 * float(((np.array(genome[:4]) - _BEST[:4]) ** 2).sum())
    wrong = float((np.array(genome[6:]) != _BITS[:4]).sum())
    return (numbers + abs(genome[4] - 7) / 5 + float(genome[5] != 2) + wrong / 2,)


def _zdt1(genome: Genome) -> tuple[float, float]:
    """Two objectives (Zitzler, Deb & Thiele 2000); on the front all genes but the first are 0."""
    first = float(genome[0])
    rest = 1 + 9 * sum(genome[1:]) / (len(genome) - 1)
    return first, rest * (1 - math.sqrt(first / rest))


def _dtlz2(genome: Genome) -> tuple[float, float, float]:
    """Three objectives (Deb et al. 2002); the front is an eighth of a sphere around the origin."""
    a, b = math.pi / 2 * genome[0], math.pi / 2 * genome[1]
    radius = 1 + sum((x - 0.5) ** 2 for x in genome[2:])
    flat = radius * math.cos(a)
    return flat * math.cos(b), flat * math.sin(b), radius * math.sin(a)


_FLAGS = tuple(Gene(f"bit{place}", "binary", 0, 1, place % 2) for place in range(20))
PROBLEMS: Mapping[str, Problem] = {
    "sphere": Problem(_reals(8), _sphere),
    "ellipsoid": Problem(_reals(8), _ellipsoid),
    "rastrigin": Problem(_reals(8), _rastrigin),
    "one-max": Problem(_FLAGS, _one_max),
    "mixed": Problem(_MIXED, _mixed),
    "zdt1": Problem(_reals(8), _zdt1, 2, (1.1, 8.0)),
    "dtlz2": Problem(_reals(10), _dtlz2, 3, (2.5, 2.5, 2.5)),
}
"""Name -> problem: five with one objective, two with several."""


if __name__ == "__main__":
    random.seed(int(sys.argv[1]))
    np.random.seed(int(sys.argv[1]))
    json.dump(all_searches(), sys.stdout)
