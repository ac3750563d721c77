"""TPE finds choices and fronts, keeps constraints, and needs optuna only when it is made."""

import sys

import numpy as np
import optuna
import pytest

from evomerge.errors import ConfigError
from evomerge.optimize import create
from evomerge.space.protocol import Gene

CHOICES = [
    *(Gene(f"method{i}", "choice", 0, 4, 0, choices=tuple("abcde")) for i in range(5)),
    Gene("weight", "real", 0.0, 2.0, 1.0),
]
REAL = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(4)]


def search(optimizer, losses, trials, violation=lambda genome: 0.0):
    """Return all genomes of a search."""
    genomes = []
    for _ in range(trials):
        trial, genome = optimizer.ask()
        genomes.append(genome)
        optimizer.tell(trial, [-value for value in losses(genome)], violation(genome))
    return genomes


def test_the_right_choices_are_found_sooner_than_at_random():
    wanted = (3, 1, 4, 0, 2)

    def losses(genome):
        return [sum(a != b for a, b in zip(genome[:5], wanted, strict=True)) + abs(genome[5] - 1.6)]

    def reached(name):
        found = [search(create(name, CHOICES, seed), losses, 120) for seed in range(3)]
        return np.median([min(losses(genome)[0] for genome in genomes) for genomes in found])

    assert reached("tpe") < 0.5 < 1 < reached("random")


def test_proposals_come_nearer_to_the_front():
    genes = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(10)]

    def losses(genome):  # ZDT1
        rest = 1 + 9 * sum(genome[1:]) / 9
        return [genome[0], rest * (1 - np.sqrt(genome[0] / rest))]

    def late(name):
        found = [search(create(name, genes, seed, objectives=2), losses, 120) for seed in (0, 1)]
        return np.mean([losses(genome)[1] for genomes in found for genome in genomes[-40:]])

    assert late("tpe") < late("random") - 1


@pytest.mark.parametrize("objectives", [1, 2])
def test_most_late_proposals_keep_a_constraint(objectives):
    """The best points have all genes at 0; the constraint asks for a sum of 2 or more."""

    def losses(genome):
        return [sum(x * x for x in genome), sum(abs(x - 0.1) for x in genome)][:objectives]

    def violation(genome):
        return max(0.0, 2.0 - sum(genome))

    optimizer = create("tpe", REAL, 1, objectives=objectives)
    late = search(optimizer, losses, 120, violation)[-50:]
    assert sum(violation(genome) < 0.1 for genome in late) > 25
    assert min(losses(genome)[0] for genome in late if not violation(genome)) < 1.15


def test_amended_genomes_are_learned_in_place_of_the_proposed_ones():
    target = np.array([0.2, 0.9, 0.7, 0.3])

    def losses(genome):
        return [float(((np.array(genome) - target) ** 2).sum())]

    first = search(create("tpe", REAL, 1), losses, 100)
    other = create("tpe", REAL, 2)
    for genome in first:
        trial, _ = other.ask()
        other.amend(trial, genome)
        other.tell(trial, [-losses(genome)[0]])
    after = np.mean([losses(genome)[0] for genome in search(other, losses, 20)])
    assert after < np.mean([losses(genome)[0] for genome in first[:20]]) / 3


def test_nothing_is_printed(capfd):
    search(create("tpe", REAL, 0, objectives=2), lambda genome: genome[:2], 15)
    assert capfd.readouterr() == ("", "")


def test_without_optuna_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    monkeypatch.delitem(sys.modules, "evomerge.optimize.samplers", raising=False)
    with pytest.raises(ConfigError, match=r"name is 'tpe', which needs .*`evomerge\[optuna\]`"):
        create("tpe", REAL, seed=0)


def test_trials_are_kept_in_memory_only():
    kept = create("tpe", REAL, seed=0)._study._storage
    assert isinstance(kept, optuna.storages.InMemoryStorage)
