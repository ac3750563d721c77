"""Pools: at most k parents are in, at least one, and what is not in changes nothing."""

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from spaces import parameters

from evomerge.merging.methods import get_method
from evomerge.testing import check_space

PARENTS = ("a", "b", "c", "d", "e")


def make(names=("task_arithmetic",), most=2, parents=PARENTS, **keys):
    return parameters(names, parents, most_parents=most, **keys)


def merged(recipe):
    found = {tuple(source.parent for source in layer.sources) for layer in recipe.every_layer()}
    assert len(found) == 1, "every layer merges the same parents"
    return found.pop()


def genome_of(space, priorities, others=0.25):
    count = len(priorities)
    return (*priorities, *(others for _ in space.genes[count:]))


@pytest.mark.parametrize(
    ("priorities", "most", "expected"),
    [
        ((0.9, 0.1, 0.8, 0.2, 0.3), 3, "ac"),
        ((0.6, 0.7, 0.8, 0.9, 1.0), 2, "de"),
        ((0.1, 0.2, 0.49, 0.3, 0.0), 3, "c"),
        ((0.5, 0.5, 0.5, 0.5, 0.5), 3, "abc"),
        ((0.0, 0.0, 0.0, 0.0, 0.0), 3, "a"),
        ((1.0, 1.0, 1.0, 1.0, 1.0), 5, "abcde"),
    ],
)
def test_the_parents_with_the_highest_priorities_are_in(priorities, most, expected):
    space = make(most=most)
    assert merged(space.decode(genome_of(space, priorities))) == tuple(expected)


@settings(deadline=None, max_examples=draws(60))
@given(st.data())
def test_at_most_k_and_at_least_one_and_nothing_else_counts(data):
    most = data.draw(st.integers(1, 5))
    space = make(most=most, groups=2, smooth=data.draw(st.booleans()))
    real = st.floats(0.0, 1.0)
    genome = [data.draw(real) for _ in space.genes]
    recipe = space.decode(tuple(genome))
    members = merged(recipe)
    assert 1 <= len(members) <= most
    assert recipe.parents == ("base", *members)
    # Neither the knobs of a parent that is not in, nor the order of the others, changes the recipe.
    for index, gene in enumerate(space.genes):
        if gene.name.endswith(".weight") and gene.name.split(".")[-2] not in members:
            genome[index] = data.draw(real)
        elif gene.name.endswith(".priority"):
            genome[index] = 0.75 if gene.name.split(".")[0] in members else genome[index] / 4
    assert space.decode(tuple(genome)).digest == recipe.digest


@pytest.mark.parametrize("names", [("slerp",), ("ties",), ("slerp", "linear")])
def test_a_method_merges_as_many_parents_as_it_takes(names):
    space = make(names, most=3)
    shared = int(len(names) > 1)
    for priorities in ((0.0, 0.9, 0.0, 0.0, 0.1), (0.9, 1.0, 1.0, 0.9, 0.9)):
        for number in range(len(names)):
            method = (float(number),)[:shared]
            count = len(space.genes) - shared - 5
            recipe = space.decode((*method, *priorities, *([0.5] * count)))
            fewest, most = get_method(names[number]).parents
            above = sum(value >= 0.5 for value in priorities)
            assert len(merged(recipe)) == max(fewest, min(most or 3, above, 3))
    check_space(space)


def test_baselines_that_fit_into_the_pool_have_genomes():
    space = make(most=2)
    genomes = space.baseline_genomes()
    assert list(genomes) == list(PARENTS)
    for parent, (genome,) in genomes.items():
        recipe = space.decode(genome)
        assert merged(recipe) == (parent,)
        assert recipe.layers["model.layers"][0].sources[0].knobs == {"weight": 1.0}
    (uniform,) = make(most=5).baseline_genomes()["uniform"]
    assert merged(make(most=5).decode(uniform)) == PARENTS
    assert list(space.baselines()) == [*PARENTS, "uniform"]
    check_space(space)
