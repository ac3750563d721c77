"""Long searches by every optimizer, to compare processes; as a script, this file prints them."""

import json
import random
import sys

import numpy as np

from evomerge.optimize import BUILTIN, builtin, create
from evomerge.space.protocol import Gene
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


if __name__ == "__main__":
    random.seed(int(sys.argv[1]))
    np.random.seed(int(sys.argv[1]))
    json.dump(all_searches(), sys.stdout)
