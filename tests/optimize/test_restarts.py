"""CMA-ES begins again when it has converged, not on a plateau, and keeps the laws."""

import numpy as np
import pytest
from optimizer_runs import restarts

from evomerge.optimize import create
from evomerge.optimize.cma import GENERATIONS, Convergence
from evomerge.space.protocol import Gene

pytestmark = pytest.mark.thorough

GENES = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(4)]
IPOP = {"restarts": "ipop"}


def rastrigin(genome):
    """Return a loss with one local optimum for every sixth of each gene's range."""
    x = 6 * (np.array(genome) - 0.3)
    return float((x * x - 3 * np.cos(2 * np.pi * x) + 3).sum())


def play(optimizer, loss, trials):
    """Return all genomes and losses of a search with one open trial at a time."""
    found = []
    for _ in range(trials):
        trial, genome = optimizer.ask()
        found.append((genome, loss(genome)))
        optimizer.tell(trial, [-found[-1][1]])
    return found


def spreads(genomes, length=80):
    """Return the spread of each part of a search."""
    parts = range(0, len(genomes) - length + 1, length)
    return [np.std(genomes[start : start + length], axis=0).mean() for start in parts]


def test_restarts_find_a_better_optimum_than_the_first_one():
    def reached(options):
        runs = [play(create("cma", GENES, s, options=options), rastrigin, 1500) for s in range(5)]
        return np.mean([min(loss for _, loss in run) for run in runs])

    assert reached(IPOP) < reached({}) / 2


def test_each_search_has_twice_the_population_and_another_start():
    optimizer = create("cma", GENES, 1, options=IPOP)
    genomes = [genome for genome, _ in play(optimizer, rastrigin, 1200)]
    found = spreads(genomes)
    widened = [i for i in range(1, len(found)) if found[i] > 3 * found[i - 1]]
    assert len(widened) >= 1
    assert optimizer.population == create("cma", GENES, 1).population
    assert optimizer.size == optimizer.population * 2**optimizer._restarts
    assert optimizer._restarts >= 1


def rosenbrock(genome):
    x = 4 * (np.array(genome) - 0.3) + 1
    return float((100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum())


@pytest.mark.parametrize("best", [0.0, -1.0, 100.0])
def test_a_search_that_still_converges_does_not_begin_again(best):
    """It goes through a narrow, bent valley with short steps; no loss is known to be the best."""
    for seed in range(6):
        runs = [
            play(create("cma", GENES, seed, options=options), lambda g: rosenbrock(g) + best, 1000)
            for options in ({}, IPOP)
        ]
        plain, restarting = (min(loss for _, loss in run) - best for run in runs)
        assert restarting < max(1e-6, 10 * plain)


def test_a_generation_of_equal_losses_moves_nothing():
    optimizer, found = create("cma", GENES, 0), []
    for number in range(40 * optimizer.population):
        trial, genome = optimizer.ask()
        optimizer.tell(trial, None if number % 2 else [float("nan")])
        found.append(genome)
    mean, spread = np.mean(found, axis=0), np.std(found, axis=0)
    assert mean == pytest.approx([0.5] * 4, abs=0.05)
    assert spread == pytest.approx([1 / 6] * 4, abs=0.03)


def test_the_first_restart_draws_other_numbers_than_another_seed():
    def first(seed):
        """Return the first samples after the first restart, in standard deviations."""
        optimizer = create("cma", GENES, seed, options=IPOP)
        while not optimizer._restarts:
            optimizer.tell(optimizer.ask()[0], [0.5])
        return np.array([optimizer.propose()[0].z for _ in range(4)]) - optimizer._mean

    def begin(seed):
        optimizer = create("cma", GENES, seed)
        return np.array([optimizer.propose()[0].z for _ in range(4)])

    others = [begin(seed) for seed in range(4)]
    found = [first(seed) for seed in range(3)]
    for place, one in enumerate(found):
        assert all(np.abs(one - other).max() > 0.1 for other in others + found[:place])


def test_the_global_generator_is_neither_read_nor_moved():
    np.random.seed(1)
    first = restarts(4)
    drawn = np.random.uniform()
    np.random.seed(2)
    assert restarts(4) == first
    np.random.seed(1)
    assert drawn == np.random.uniform()


def test_outcomes_of_a_search_that_was_given_up_are_ignored():
    def run(late):
        optimizer, left = create("cma", GENES, 5, options=IPOP), []
        while not optimizer._restarts:
            trial, genome = optimizer.ask()
            if len(left) < 30:
                left.append(trial)
            else:
                optimizer.tell(trial, [-rastrigin(genome)])
        for trial in left if late else ():
            optimizer.tell(trial, [1e9])
        return [genome for genome, _ in play(optimizer, rastrigin, 60)]

    assert run(late=True) == run(late=False)


@pytest.mark.parametrize(
    ("losses", "step", "converged"),
    [
        (lambda generation: (0.5**generation - 7, 9), 0.05, False),  # falls by half
        (lambda generation: (0.5, 0.6), 0.05, True),  # no gain, short steps
        (lambda generation: (0.5, 0.6), 0.5, False),  # a plateau, which wide steps may leave
        (lambda generation: (0.5, 0.5), 0.5, True),  # nothing that could be learned
        (lambda generation: (-generation, 0.6), 0.05, False),  # still gains
    ],
)
def test_converged_means_short_steps_without_gain(losses, step, converged):
    convergence = Convergence()
    found = [convergence.after(losses(number), step) for number in range(GENERATIONS + 2)]
    assert not any(found[:GENERATIONS])
    assert any(found) is converged
