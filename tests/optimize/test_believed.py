"""The genome that an optimizer believes in, and searches whose generations have other documents."""

from statistics import fmean, median

import numpy as np
import pytest
from optimizer_runs import PROBLEMS

from evomerge.optimize import create
from evomerge.optimize.protocol import Believing

NOISE = 0.3
"""Standard deviation of what the documents of a generation add to each loss."""


def searched(name, problem, seed, trials=600, noise=0.0):
    """Search with the noise of a sample of documents; return the optimizer and its proposals."""
    optimizer, luck = create(name, problem.genes, seed, is_fresh=True), np.random.RandomState(seed)
    proposals = []
    while len(proposals) < trials:
        genomes = [optimizer.ask() for _ in range(optimizer.population)]
        shared = noise * luck.randn()  # all of a generation have the same documents
        for genome in genomes:
            loss = problem.losses(genome)[0] + shared + noise / 10 * luck.randn()
            optimizer.tell(genome, [-loss])
        proposals += genomes
    return optimizer, proposals


@pytest.mark.parametrize("name", ["cma", "diagonal-cma", "cma-margin"])
@pytest.mark.parametrize("noise", [0.0, NOISE])
def test_it_is_better_than_the_proposals_around_it(name, noise):
    """Also where the mean of pycma, in its own coordinates, lies outside the bounds."""
    problem = PROBLEMS["sphere"]
    believed, around = [], []
    for seed in range(5):
        optimizer, proposals = searched(name, problem, seed, noise=noise)
        assert isinstance(optimizer, Believing)
        believed += problem.losses(optimizer.believed())
        last = proposals[-3 * optimizer.population :]
        around.append(median(problem.losses(genome)[0] for genome in last))
    assert fmean(believed) < fmean(around)
    assert noise or all(loss <= other for loss, other in zip(believed, around, strict=True))


@pytest.mark.parametrize("name", ["cma", "cma-margin"])
def test_to_ask_for_it_changes_no_proposal(name):
    problem = PROBLEMS["mixed"]
    plain, asked = (create(name, problem.genes, 3, is_fresh=True) for _ in range(2))
    for _ in range(8):
        genomes = [plain.ask() for _ in range(plain.population)]
        asked.believed()
        assert [asked.ask() for _ in range(plain.population)] == genomes
        for genome in genomes:
            for optimizer in (plain, asked):
                optimizer.tell(genome, [-problem.losses(genome)[0]])


def test_with_fresh_documents_a_genome_may_come_again_and_its_old_outcome_does_not_count():
    problem = PROBLEMS["one-max"]
    optimizer = create("cma-margin", problem.genes, 1, is_fresh=True)
    _, proposals = searched("cma-margin", problem, 1)
    assert len({*proposals}) < len(proposals)
    learned = []
    optimizer.update = lambda trials: learned.append([trial.loss for trial in trials])
    for number in range(4):
        genomes = [optimizer.ask() for _ in range(optimizer.population)]
        for place, genome in enumerate(genomes):
            optimizer.tell(genome, [-float(100 * number + place)])
        first = {genome: 100.0 * number + genomes.index(genome) for genome in genomes}
        assert len(learned) == number + 1 and len(learned[-1]) == optimizer.population
        assert min(learned[-1]) >= min(first.values()), "an earlier outcome was learned again"
