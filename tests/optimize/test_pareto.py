"""NSGA-II is pymoo's with any number of open trials, and respects constraints and failures."""

import numpy as np
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.core.evaluator import Evaluator
from pymoo.core.population import Population
from pymoo.core.problem import ElementwiseProblem
from pymoo.core.termination import NoTermination

from evomerge.optimize import create
from evomerge.space.protocol import Gene

GENES = [Gene(f"g{i}", "real", 0.0, 1.0, 0.5) for i in range(10)]


def nsga2(seed=0, population=None, objectives=2, genes=GENES):
    return create("nsga2", genes, seed, population, objectives=objectives)


def zdt1(genome):
    """Return the two losses of ZDT1; on the front all genes but the first are 0."""
    first = genome[0]
    rest = 1 + 9 * sum(genome[1:]) / (len(genome) - 1)
    return first, rest * (1 - np.sqrt(first / rest))


def three_spheres(genome):
    return tuple(sum((x - target) ** 2 for x in genome) for target in (0.1, 0.5, 0.9))


def plain(seed, losses, violation, fails, generations, beside, late):
    """Return the points that pymoo proposes; it is told `beside` in the generation `late`, too."""
    draws = np.random.RandomState(seed).standard_normal((20, len(GENES)))
    algorithm = NSGA2(pop_size=20, sampling=np.clip(0.5 + 2 * (1 / 6) * draws, 0.0, 1.0))
    objectives = len(losses((0.5,) * len(GENES)))

    class Searched(ElementwiseProblem):
        def _evaluate(self, x, out):
            out["F"], out["G"] = losses(x), [violation(x)]
            if fails(x):
                out["F"], out["G"] = [1e9] * objectives, [1e10]

    points = []
    problem = Searched(n_var=len(GENES), n_obj=objectives, n_ieq_constr=1, xl=0.0, xu=1.0)
    algorithm.setup(problem, termination=NoTermination(), seed=seed)
    for generation in range(generations):
        told = algorithm.ask()
        points += map(tuple, told.get("X"))
        if generation == late and beside:
            told = Population.merge(Population.new(X=np.array(beside)), told)
        Evaluator().eval(problem, told)
        algorithm.tell(infills=told)
    return points


@pytest.mark.parametrize(("count", "late"), [(0, 0), (3, 0), (11, 2)])
@pytest.mark.parametrize(("order", "broken"), [("asked", False), ("reversed", True)])
@pytest.mark.parametrize("losses", [zdt1, three_spheres])
def test_told_by_generations_it_is_the_search_of_pymoo(losses, broken, order, count, late):
    """Individual for individual; other points are told in the first generation, or the third."""

    def violation(genome):
        return max(0.0, 2.0 - sum(genome)) if broken else 0.0

    def fails(genome):
        return broken and genome[1] > 0.7

    seed = count + late
    beside = sorted(map(tuple, np.random.RandomState(seed).uniform(size=(count, 10))))
    points = plain(seed, losses, violation, fails, 15, beside, late)
    optimizer, found = nsga2(seed, objectives=len(losses(points[0]))), []
    for generation in range(15):
        asked = [optimizer.ask() for _ in range(20)]
        found += asked
        step = 1 if order == "asked" else -1
        # `beside` comes first: with the last one of a generation, pymoo is told.
        others = beside[::step] if generation == late else []
        for genome in [*others, *asked[::step]]:
            values = None if fails(genome) else [-value for value in losses(genome)]
            optimizer.tell(genome, values, violation(genome))
    assert found == points


@pytest.mark.parametrize("width", [1, 5, 45])
def test_a_generation_is_of_own_proposals_each_once_with_any_number_of_open_trials(width):
    optimizer, waiting, told, own = nsga2(population=28), [], [], []
    tell = optimizer._algorithm.tell
    optimizer._algorithm.tell = lambda infills: (told.append(infills.get("X")), tell(infills))
    for number in range(200):
        if number in (0, 1, 2, 100):
            other = (number / 200,) * len(GENES)
            optimizer.tell(other, [-value for value in zdt1(other)])
        own.append(optimizer.ask())
        waiting.append(own[-1])
        if len(waiting) == width:
            genome = waiting.pop(0)
            optimizer.tell(genome, [-value for value in zdt1(genome)])
    for place, generation in enumerate(told):
        assert [*map(tuple, generation)][-28:] == own[28 * place : 28 * (place + 1)]
        late = (100 - width + 1) // 28
        assert len(generation) - 28 == {0: 3}.get(place, 0) + (place == late)
    assert len(told) >= 5
    assert len(set(own)) == len(own)


def test_recorded_individuals_take_the_places_of_the_proposed_ones():
    found = []
    for order in (1, -1):
        optimizer, genomes = nsga2(), np.random.RandomState(0).uniform(size=(20, len(GENES)))
        for genome in map(tuple, genomes):
            optimizer.replay(genome)
        for genome in map(tuple, genomes[::order]):
            optimizer.tell(genome, [-value for value in zdt1(genome)])
        found.append([optimizer.ask() for _ in range(20)])
    assert found[0] == found[1]


def test_a_space_without_anything_new_is_searched_on():
    """No mating gives a new individual, by which pymoo would end the search."""
    optimizer, found = nsga2(genes=[Gene(f"b{i}", "binary", 0, 1, 0.5) for i in range(2)]), set()
    for _ in range(30):
        genome = optimizer.ask()
        optimizer.tell(genome, genome)
        found.add(genome)
    assert len(found) == 4
