"""CMA-ES begins again when it has converged, not on a plateau, and keeps the laws."""

import numpy as np
import pytest
from optimizer_runs import restarts

from evomerge.optimize import create
from evomerge.optimize.restarts import GENERATIONS, Bipop, Convergence
from evomerge.space.protocol import Gene

GENES = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(4)]
IPOP = {"restarts": "ipop"}
BIPOP = {"restarts": "bipop"}


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
    assert optimizer._begin.population == optimizer.population * 2**optimizer._restarts
    assert optimizer._restarts >= 1


def test_small_searches_come_between_large_ones_and_get_as_many_trials():
    scheme, trials, spent = Bipop(8), 400, {True: 0, False: 0}
    large, longest = [], 0
    for number in range(60):
        begin = scheme.after(trials, np.random.RandomState(number))
        is_large = begin.trials is None
        trials = 50 * begin.population if is_large else min(begin.trials, 20 * begin.population)
        if is_large:
            large.append(begin.population)
            assert begin.step == 1 and spent[False] >= spent[True]
            longest = trials
        else:
            assert 8 <= begin.population <= max(8, large[-1] / 2)
            assert 0.01 <= begin.step <= 1 and begin.trials == longest // 2
            assert spent[False] < spent[True]
        spent[is_large] += trials
    assert large == [8 * 2**n for n in range(1, len(large) + 1)] and 3 <= len(large) < 30


def test_a_small_search_begins_with_its_own_steps_and_ends_in_time():
    optimizer, begins, when = create("cma", GENES, 0, options=BIPOP), [], []
    genomes = []
    for _ in range(2400):
        trial, genome = optimizer.ask()
        genomes.append(genome)
        optimizer.tell(trial, [-rastrigin(genome)])
        if optimizer._restarts > len(begins):
            begins.append(optimizer._begin)
            when.append(len(genomes))
    small = [place for place, begin in enumerate(begins) if begin.trials is not None]
    assert len(small) >= 2
    for place in small:
        begin, start = begins[place], when[place]
        first = np.std(genomes[start : start + begin.population], axis=0).mean()
        assert first == pytest.approx(begin.step / 6, rel=0.6)
        if place + 1 < len(when):
            assert when[place + 1] - start < begin.trials + begin.population


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
