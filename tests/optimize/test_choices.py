"""The values of a choice are equally likely at first, and their order decides nothing."""

import numpy as np
import pytest
from draws import few
from optimizer_runs import COUNTS, NAMES, make, several
from scipy.stats import chi2_contingency, chisquare

from evomerge.optimize import create
from evomerge.optimize.base import Cube
from evomerge.space.protocol import Gene

pytestmark = pytest.mark.thorough

VALUES = 4
LONG = [name for name in NAMES if name != "grid"]
FAST = [
    *("cma", "diagonal-cma", "cma-margin", "two-points-de", "discrete-lengler"),
    *("nsga2", "random", "sobol"),
]
USUAL = ("cma-margin", "two-points-de", "nsga2")
"""One for each way in which optimizers draw the value of a choice."""


def genes_with(values, start=0):
    method = Gene("method", "choice", 0, values - 1, start, choices=tuple(map(str, range(values))))
    numbers = [Gene(f"g{place}", "real", 0.0, 1.0, 0.5) for place in range(4)]
    return [*numbers[:2], method, *numbers[2:]]


def baselines_with(values):
    """Return a genome with each value of the choice for each of three baselines, as spaces do."""
    points = ((0.5,) * 4, (0.0,) * 4, (1.0,) * 4)
    return [(*point[:2], float(value), *point[2:]) for value in values for point in points]


def check_first(name, values, seeds, length, start=0, baselines=False):
    """Check that each value is in an equal share of the first candidates, and of the very first."""
    shares = np.zeros((seeds, values))
    first = np.zeros(values)
    for seed in range(seeds):
        optimizer = make(name, genes_with(values, start), seed)
        order = np.random.RandomState(seed).permutation(values)
        for genome in baselines_with(order) if baselines else ():
            optimizer.tell(genome, several(name, 0.5))
        for number in range(length):
            genome = optimizer.ask()
            shares[seed, int(genome[2])] += 1 / length
            first[int(genome[2])] += number == 0
            optimizer.tell(genome, several(name, 0.5))
    assert chisquare(first).pvalue > 1e-3
    error = shares.std(axis=0) / np.sqrt(seeds)
    assert (np.abs(shares.mean(axis=0) - 1 / values) < 4 * np.maximum(error, 1e-3)).all()


@pytest.mark.parametrize(("length", "baselines"), [(3, False), (25, True)])
@pytest.mark.parametrize("name", few(FAST, USUAL))
def test_every_value_is_equally_likely_at_first(name, length, baselines):
    check_first(name, values=VALUES, seeds=60, length=length, baselines=baselines)


@pytest.mark.long
@pytest.mark.parametrize("name", LONG)
@pytest.mark.parametrize("values", [2, 3, 7])
def test_any_number_of_values_is_equally_likely_at_first(name, values):
    check_first(name, values, 400, 50, start=values - 1)


def found(name, place, seed, candidates):
    target = np.random.RandomState(seed).uniform(0.2, 0.8, 4)
    optimizer = make(name, genes_with(VALUES), seed)
    best = (-np.inf, -1.0)
    for _ in range(candidates):
        genome = optimizer.ask()
        numbers = np.array([*genome[:2], *genome[3:]])
        value = 0.05 * (genome[2] == place) - float(((numbers - target) ** 2).sum())
        best = max(best, (value, genome[2]))
        optimizer.tell(genome, [value] * COUNTS[name][-1])
    return best[1] == place


@pytest.mark.parametrize("name", few(FAST, USUAL))
def test_the_place_of_the_best_method_makes_no_difference(name):
    seeds = 20
    hits = [
        sum(found(name, place, 1000 * place + seed, 50) for seed in range(seeds))
        for place in range(VALUES)
    ]
    assert sum(hits) > 1.2 * seeds  # at random the best candidate has the method in a quarter
    if sum(hits) < VALUES * seeds:
        assert chi2_contingency([hits, [seeds - hit for hit in hits]]).pvalue > 1e-3


def test_a_genome_maps_to_keys_that_give_its_value_and_can_give_others():
    genes = [Gene("x", "real", -1.0, 1.0, 0.0), *genes_with(5)]
    cube = Cube(genes, 1 / 6)
    draws = np.random.RandomState(0).standard_normal((4000, len(cube.start)))
    for value in range(5):
        genome = (0.5, 0.1, 0.2, float(value), 0.3, 0.4)
        point = cube.point(genome)
        assert cube.genome(point) == pytest.approx(genome)
        kept = np.mean([cube.genome(point + cube.step * draw)[3] == value for draw in draws])
        assert 0.6 < kept < 0.8
    first = [cube.genome(cube.start + cube.step * draw) for draw in draws]
    won = [point for point in draws if cube.genome(cube.start + cube.step * point)[3] == 2]
    assert np.std([genome[3] for genome in first]) > 1.3
    keys = cube.start + cube.step * np.mean(won, axis=0)
    assert keys[3:8] == pytest.approx(cube.point((0.0, 0.5, 0.5, 2.0, 0.5, 0.5))[3:8], abs=0.01)


@pytest.mark.parametrize("choices", ["keys", "cells", "quantiles"])
@pytest.mark.parametrize("values", [1, 2, 3, 200])
def test_every_value_is_that_of_its_own_point(choices, values):
    cube = Cube(genes_with(values), 1.0, choices)
    for value in range(values):
        genome = (0.5, 0.5, float(value), 0.5, 0.5)
        point = cube.point(genome)
        assert cube.genome(point) == genome
        assert (point >= 0).all() and (point <= 1).all()


@pytest.mark.parametrize("name", ["nevergrad:OnePlusOne", "discrete-lengler"])
def test_a_search_that_tries_its_start_draws_what_is_undecided(name):
    genes = [Gene(f"flag{place}", "binary", 0, 1, 0.5) for place in range(8)]
    flags = np.array([create(name, genes, seed).ask() for seed in range(100)])
    assert (np.abs(flags.mean(axis=0) - 0.5) < 0.2).all()
    decided = [Gene("x", "real", 0.0, 1.0, 0.25), Gene("flag", "binary", 0, 1, 1)]
    assert {create(name, decided, seed).ask() for seed in range(20)} == {(0.25, 1.0)}
