"""The laws of the protocol, for every optimizer of the package."""

import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import optimizer_runs
import pytest
from optimizer_runs import COUNTS, MIXED, NAMES, ONE, WIDTHS, make, several

from evomerge.optimize import create
from evomerge.space.protocol import Gene
from evomerge.testing import check_optimizer

REAL = [Gene(f"real{i}", "real", -1.0, 3.0, 0.5) for i in range(3)]
LONE = [Gene("lone", "real", 0.0, 1.0, 1.0)]
MANY = [Gene(f"gene{i}", "real", 0.0, 1.0, 0.5) for i in range(310)]
BITS = [Gene(f"bit{i}", "binary", 0, 1, i % 2) for i in range(12)]


@pytest.fixture(scope="module")
def elsewhere():
    """The searches of all optimizers in another process: other hash seed, other global seeds."""
    environment = dict(os.environ)
    own = environment.get("PYTHONHASHSEED", "random")
    environment["PYTHONHASHSEED"] = "12345" if own != "12345" else "54321"
    script = Path(optimizer_runs.__file__)
    command = [sys.executable, str(script), "77"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def here():
    random.seed(1)
    np.random.seed(1)
    return optimizer_runs.all_searches()


@pytest.mark.thorough  # `make test` goes on with an old run of each
@pytest.mark.parametrize("name", NAMES)
def test_another_process_replays_a_search_bit_for_bit(name, here, elsewhere):
    for width in WIDTHS:
        assert len(here[f"{name} {width}"]) == 100
        assert here[f"{name} {width}"] == elsewhere[f"{name} {width}"]


@pytest.mark.parametrize(
    ("name", "genes"),
    [
        *((name, LONE) for name in NAMES if name != "nevergrad:PSO"),  # particles meet in corners
        *((name, MANY) for name in ("cma", "diagonal-cma")),
    ],
)
def test_the_laws_hold_with_a_single_gene_and_with_hundreds(name, genes):
    """pycma and cmaes need two dimensions; with 300, pycma uses the global generator by itself."""
    check_optimizer(
        lambda genes, setting: make(name, genes, setting.seed),
        genes,
        60,
        objectives=COUNTS[name][-1],
    )


@pytest.mark.parametrize("name", ONE)
def test_small_violations_keep_their_order(name):
    def run(scale):
        optimizer, genomes = create(name, REAL, seed=1), []
        for _ in range(150):
            genomes.append(optimizer.ask())
            optimizer.tell(genomes[-1], [0.0], scale * sum(x * x for x in genomes[-1]))
        return genomes

    assert run(1.0) == run(1e-9)


@pytest.mark.parametrize("name", ["cma", "cma-margin", "two-points-de", "nsga2"])
def test_large_values_are_told_apart(name):
    """The number of parameters of a model is an objective, and goes into the billions."""
    count = COUNTS[name][-1]

    def run(scale):
        optimizer, genomes = make(name, REAL, 1), []
        for _ in range(100):
            genome = optimizer.ask()
            genomes.append(genome)
            square = sum(x * x for x in genome)
            optimizer.tell(genome, [-scale * square, scale * sum(genome), -scale * 2.0][:count])
        return genomes

    assert run(2.0**33) == run(1.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("genes", "slope"), [(REAL, 1.0), (MIXED, 1.0), (BITS, 0.0)])
@pytest.mark.parametrize("width", [1, 8])
def test_nothing_is_proposed_twice(name, genes, slope, width):
    """The optimum is a corner, where clipped points would be equal; all bits are equally good."""
    count = COUNTS[name][-1]
    optimizer, seen, waiting = make(name, genes, 2), [], []

    def tell(genome):
        value = slope * sum(genome)
        optimizer.tell(genome, [value, value**2, -1.0][:count])

    start, low = ([float(int(getattr(gene, key))) for gene in genes] for key in ("start", "low"))
    for genome in (start, low, start):
        tell(tuple(genome))
    for number in range(60):
        seen.append(optimizer.ask())
        waiting.append(seen[-1])
        if len(waiting) >= width and number != 30:
            tell(waiting.pop(0))
    assert len({*seen, tuple(start), tuple(low)}) == len(seen) + 2


@pytest.mark.parametrize("name", NAMES)
def test_another_number_of_values_is_an_error(name):
    optimizer = make(name, REAL, 0)
    with pytest.raises(ValueError, match=r"There are . values, not ."):
        optimizer.tell(optimizer.ask(), [*several(name, 0.5), 0.5])


@pytest.mark.parametrize("genome", [(0.0, 0.0), (0.0, 0.0, 3.5), (0.0, 0.0, math.nan)])
def test_a_genome_outside_of_the_space_cannot_be_told(genome):
    optimizer = create("cma", REAL, seed=0)
    with pytest.raises(ValueError, match=r"(?i)gene"):
        optimizer.tell(genome, [0.0])
