"""Optimizers keep the laws, and CMA-ES with margin is that of cmaes."""

import numpy as np
import pytest
from cmaes import CMAwM
from optimize.optimizer_laws import check_laws
from optimizer_runs import COUNTS, MIXED, NAMES, PROBLEMS

from evomerge.optimize import create
from evomerge.optimize.base import Cube
from evomerge.testing.optimizers import random_genome

pytestmark = pytest.mark.thorough

UNTAUGHT = ("random", "sobol", "grid")
"""Searches that learn nothing; `auto` is one of the others."""


@pytest.mark.parametrize("name", [name for name in NAMES if name not in (*UNTAUGHT, "auto")])
def test_every_optimizer_keeps_the_laws(name):
    for objectives in COUNTS[name]:
        check_laws(
            lambda genes, seed: create(name, genes, seed, objectives=objectives),  # noqa: B023
            trials=60,
            objectives=objectives,
        )


def test_cma_with_choices_is_better_than_random_search():
    """In the median of five searches; other optimizers propose what their own packages propose."""
    genes, loss = PROBLEMS["mixed"].genes, PROBLEMS["mixed"].loss

    def searched(seed):
        optimizer, found = create("cma-margin", genes, seed), []
        for _ in range(200):
            genome = optimizer.ask()
            found.append(loss(genome))
            optimizer.tell(genome, [-found[-1]])
        return min(found)

    def at_random(seed):
        random = np.random.RandomState(seed)
        return min(loss(random_genome(genes, random)) for _ in range(200))

    ours, others = ([run(seed) for seed in range(5)] for run in (searched, at_random))
    assert np.median(ours) < np.median(others) / 2


def test_cma_with_margin_is_that_of_cmaes():
    """In units of steps, as the one of cmaes with the same seed and population."""
    genes = [gene for gene in MIXED if gene.kind != "choice"]
    cube, optimizer = Cube(genes, 1 / 6), create("cma-margin", genes, seed=7)
    cells = [None if gene.kind == "real" else int(gene.high - gene.low) + 1 for gene in genes]
    edges = np.array([(0.5 / k, 1 - 0.5 / k) if k else (0.0, 1.0) for k in cells])
    plain = CMAwM(
        mean=cube.start / cube.step,
        sigma=1.0,
        bounds=edges / cube.step[:, None],
        steps=np.array([1 / k if k else 0.0 for k in cells]) / cube.step,
        n_max_resampling=0,
        seed=7,
        population_size=optimizer.population,
    )
    for _ in range(25):
        samples = [plain.ask() for _ in range(optimizer.population)]
        losses = []
        for point, _ in samples:
            genome, shares = optimizer.ask(), point * cube.step
            for gene, value, share, count in zip(genes, genome, shares, cells, strict=True):
                above = (
                    min(count - 1, int(share * count)) if count else share * (gene.high - gene.low)
                )
                assert value == pytest.approx(gene.low + above, abs=1e-6), gene.name
            losses.append(float(sum((value - 0.3) ** 2 for value in genome)))
            optimizer.tell(genome, [-losses[-1]])
        plain.tell([(sample, loss) for (_, sample), loss in zip(samples, losses, strict=True)])
