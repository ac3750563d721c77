"""NSGA-II and NSGA-III find fronts, respect constraints, and learn from amended genomes."""

import numpy as np
import pytest
from pymoo.indicators.hv import HV

from evomerge.optimize import create
from evomerge.space.protocol import Gene

GENES = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(10)]


def zdt1(genome):
    """Return the two losses of ZDT1; on the front all genes but the first are 0."""
    first = genome[0]
    rest = 1 + 9 * sum(genome[1:]) / (len(genome) - 1)
    return first, rest * (1 - np.sqrt(first / rest))


def hypervolume(losses):
    return float(HV(ref_point=np.array([1.1, 11.0]))(np.array(losses)))


def search(optimizer, trials, losses=zdt1, violation=lambda genome: 0.0):
    found = []
    for _ in range(trials):
        trial, genome = optimizer.ask()
        values = losses(genome)
        optimizer.tell(trial, [-value for value in values], violation(genome))
        found.append((genome, values))
    return found


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_the_front_of_zdt1_is_found(name):
    def reached(wanted):
        runs = [search(create(wanted, GENES, seed, objectives=2), 600) for seed in range(3)]
        return np.median([hypervolume([item for _, item in run]) for run in runs])

    assert reached("random") < 9.8 < 10.7 < reached(name)  # the true front has 11.8


@pytest.mark.parametrize("name", ["nsga2", "nsga3"])
def test_three_objectives_are_searched(name):
    def losses(genome):
        return [sum((x - target) ** 2 for x in genome) for target in (0.1, 0.5, 0.9)]

    def reached(wanted):
        found = search(create(wanted, GENES, 0, objectives=3), 500, losses)
        return float(HV(ref_point=np.full(3, 5.0))(np.array([values for _, values in found])))

    assert reached(name) > reached("random") + 3


@pytest.mark.parametrize("name", ["nsga2", "cma", "de", "one-plus-one"])
def test_a_point_that_breaks_a_constraint_is_worse_than_one_that_does_not(name):
    """The best point without the constraint has all genes at 0; with it, their sum is 2 or more."""
    count = 2 if name == "nsga2" else 1

    def losses(genome):
        return [sum(x * x for x in genome), sum(abs(x - 0.1) for x in genome)][:count]

    def violation(genome):
        return max(0.0, 2.0 - sum(genome))

    found = search(create(name, GENES, 0, objectives=count), 600, losses, violation)
    late = [genome for genome, _ in found[-100:]]
    assert sum(violation(genome) < 0.05 for genome in late) > 50
    assert min(losses(genome)[0] for genome in late if not violation(genome)) < 0.8


def test_amended_genomes_are_learned_in_place_of_the_proposed_ones():
    first = create("nsga2", GENES, 1, objectives=2)
    calls = [genome for genome, _ in search(first, 400)]
    other = create("nsga2", GENES, 2, objectives=2)
    for genome in calls:
        trial, _ = other.ask()
        other.amend(trial, genome)
        other.tell(trial, [-value for value in zdt1(genome)])
    after = [zdt1(genome) for genome, _ in search(other, 40)]
    fresh = [zdt1(genome) for genome, _ in search(create("nsga2", GENES, 2, objectives=2), 40)]
    assert np.mean([b for _, b in after]) < np.mean([b for _, b in fresh]) - 1
