"""Long searches by every optimizer, to compare processes; as a script, this file prints them."""

import json
import math
import random
import sys

import numpy as np

from evomerge.optimize import BUILTIN, builtin, create
from evomerge.space.protocol import Gene

MIXED = [
    Gene("weight", "real", 0.0, 2.0, 1.0),
    Gene("narrow", "real", 0.0, 1.0, 0.0, sigma=0.01),
    Gene("count", "integer", 2, 9, 5),
    Gene("method", "choice", 0, 2, 0, choices=("a", "b", "c")),
    Gene("flag", "binary", 0, 1, 0.5),
]
OF_NEVERGRAD = ["nevergrad:OnePlusOne", "nevergrad:DE", "nevergrad:PSO"]
NAMES = [name for name in BUILTIN if name != "nevergrad:NAME"] + OF_NEVERGRAD
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


def corner(genes, number):
    """Return a corner of the space."""
    bits = np.random.RandomState(number).randint(2, size=len(genes))
    ends = zip(bits, genes, strict=True)
    return tuple(float(gene.high if bit else gene.low) for bit, gene in ends)


def search(name, genes, width, trials, in_bursts=False):
    """Return all genomes of a search in which everything happens that the protocol allows.

    Values are multiples of 1/50, so there are plateaus. Trials are told in random order; some fail,
    some give NaN, some are never told, some are amended to an earlier genome. Genomes are enqueued,
    some of them twice.

    Args:
        name: the optimizer.
        genes: the genes that it searches.
        width: maximum number of open trials.
        trials: number of trials.
        in_bursts: tell all open trials together, instead of one after each `ask`.
    """
    optimizer, order = make(name, genes, 3), np.random.RandomState(5)
    genomes, waiting = [], []
    for number in range(trials):
        if number % 60 == 10:
            for i in range(20):
                optimizer.enqueue(corner(genes, number + i // 2))
        trial, genome = optimizer.ask()
        assert trial == number
        check_range(genes, genome)
        genomes.append(genome)
        waiting.append((trial, genome))
        if order.rand() < 0.05:
            optimizer.amend(trial, genomes[order.randint(len(genomes))])
        if len(waiting) >= width:
            for _ in range(len(waiting) if in_bursts else 1):
                tell(
                    name, optimizer, genes, *waiting.pop(order.randint(len(waiting))), order.rand()
                )
    return genomes


def tell(name, optimizer, genes, trial, genome, fate):
    """Tell a trial's value, a failure or NaN, or nothing; `fate`, in [0, 1], decides which."""
    ranges = [gene.high - gene.low for gene in genes]
    distance = sum(
        abs((value - gene.low) / span - 0.3)
        for value, gene, span in zip(genome, genes, ranges, strict=True)
    )
    if fate < 0.1:
        optimizer.tell(trial, None)
    elif fate < 0.15:
        optimizer.tell(trial, several(name, math.nan))
    elif fate > 0.2:
        value = math.floor(50 * (1 - distance / len(genes))) / 50
        optimizer.tell(trial, several(name, value), 0.5 if fate > 0.9 else 0.0)


def check_range(genes, genome):
    """Check that every value is in the range of its gene, and whole if the gene is not real."""
    for gene, value in zip(genes, genome, strict=True):
        assert gene.low <= value <= gene.high
        assert gene.kind == "real" or value == int(value)


def all_searches():
    """Return the searches of all optimizers; numbers are hexadecimal text, which keeps all bits."""
    return {
        f"{name} {width}": [
            [float(value).hex() for value in genome]
            for genome in search(name, MIXED, width, 100, in_bursts=width == 50)
        ]
        for name in NAMES
        for width in WIDTHS
    }


if __name__ == "__main__":
    random.seed(int(sys.argv[1]))
    np.random.seed(int(sys.argv[1]))
    json.dump(all_searches(), sys.stdout)
