"""The Gaussian process proposes what Optuna proposes, and keeps the laws of optimizers."""

import dataclasses

import numpy as np
import optuna
import pytest
import torch
from optimizer_runs import MIXED
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from evomerge.optimize import GP_FIRST as FIRST
from evomerge.optimize import create
from evomerge.optimize.gp import GaussianProcess
from evomerge.space.protocol import Gene
from evomerge.testing import check_optimizer

REAL = [Gene(f"g{i}", "real", 0.0, 2.0, 1.0) for i in range(3)]
FLAG = Gene("flag", "binary", 0, 1, 0)
BEST = (0.3, 1.6, 1.1)


def loss(genome):
    return sum((a - b) ** 2 for a, b in zip(genome, BEST, strict=False))


def searched(count, tell=lambda number, genome: ([-loss(genome)], 0.0), genes=REAL, objectives=1):
    """Return an optimizer that was told so many of its proposals, and these."""
    optimizer, genomes = create("gp", genes, 1, objectives=objectives), []
    for number in range(count):
        genomes.append(optimizer.ask())
        optimizer.tell(genomes[-1], *tell(number, genomes[-1]))
    return optimizer, genomes


def test_it_finds_the_optimum_in_few_candidates():
    _, genomes = searched(30)
    assert min(map(loss, genomes[:FIRST])) > 0.02
    assert min(map(loss, genomes)) < 2e-3


@pytest.mark.parametrize("objectives", [1, 2])
def test_a_proposal_is_that_of_optuna(objectives):
    """Optuna gets the same trials, one of them running, and the same seed."""

    def values(genome):
        return [-loss(genome), -genome[0]][:objectives]

    optimizer, genomes = searched(FIRST, lambda _, genome: (values(genome), 0.0), MIXED, objectives)
    opened = optimizer.ask()
    axes = {
        "0": FloatDistribution(0.0, 2.0),
        "1": FloatDistribution(0.0, 1.0),
        "2": IntDistribution(2, 9),
        "3": CategoricalDistribution([0, 1, 2]),
        "4": IntDistribution(0, 1),
    }

    def trial(genome, state, values=None):
        kinds = (float, float, int, int, int)
        params = {str(i): kind(x) for i, (kind, x) in enumerate(zip(kinds, genome, strict=True))}
        return create_trial(state=state, params=params, distributions=axes, values=values)

    sampler = optuna.samplers.GPSampler(seed=5, n_startup_trials=1)
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
    for genome in sorted(genomes):
        study.add_trial(trial(genome, TrialState.COMPLETE, values(genome)))
    study.add_trial(trial(opened, TrialState.RUNNING))
    params = study.ask(axes).params
    assert optimizer.propose(seed=5) == tuple(params[name] for name in axes)


def test_it_waits_for_no_outcome():
    optimizer = create("gp", REAL, 1)
    assert len({optimizer.ask() for _ in range(FIRST + 3)}) == FIRST + 3


def test_a_proposal_depends_on_what_was_told_and_is_open_alone():
    """So a search that is resumed computes none of its proposals anew."""
    optimizer, genomes = searched(FIRST + 2)
    resumed = create("gp", REAL, 1)
    for genome in genomes:
        assert resumed.replay(genome) == genome
    for genome in genomes[::-1]:
        resumed.tell(genome, [-loss(genome)])
    assert [resumed.ask() for _ in range(3)] == [optimizer.ask() for _ in range(3)]


def test_a_proposal_does_not_depend_on_the_number_of_threads():
    """Of 150 points torch's sums differ in last bits; workers in this process set the number."""

    def proposal(threads):
        torch.set_num_threads(threads)
        optimizer = create("gp", REAL, 1)
        for genome in np.random.RandomState(0).uniform(0.0, 2.0, (150, 3)):
            optimizer.tell(tuple(genome.tolist()), [-float(np.sin(7 * genome).sum())])
        return optimizer.propose(seed=1)

    before = torch.get_num_threads()
    try:
        assert proposal(1) == proposal(2)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "genes",
    [
        pytest.param(REAL, marks=pytest.mark.long),
        pytest.param(MIXED, marks=pytest.mark.thorough),
        REAL[:1],
        [FLAG] * 3,
    ],
    ids=["real", "mixed", "one", "few"],
)
def test_the_laws_hold(genes):
    genes = [dataclasses.replace(gene, name=f"g{i}") for i, gene in enumerate(genes)]
    check_optimizer(GaussianProcess, genes, FIRST + 2)


def test_failures_and_violations_rank_last_and_outliers_are_cut():
    """Values of what breaks a constraint do not count, and of failures there are none."""

    def proposal(failed, broken, worst):
        def tell(number, genome):
            if number < 2:
                return failed
            if number < 4:
                return broken, 1.0 + number
            return ([worst if number == 5 else -loss(genome)], 0.0)

        return searched(FIRST + 1, tell)[1][-1]

    first = proposal((None, 0.0), [1.0], -1e6)
    assert first == proposal(([float("nan")], 0.0), [-9.0], -1e9)
    assert first != proposal(([9.0], 0.0), [1.0], -1e6)
    assert first != proposal((None, 0.0), [1.0], 1.0)
