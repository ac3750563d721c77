"""The laws of strategies hold for those of the package, and broken ones are found."""

import numpy as np
import pytest
from scripted import space as parameter_space

from evomerge.optimize import create
from evomerge.scores import Scores
from evomerge.space.crossover import CrossoverSpace
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.niches import NichesSetting, NichesStrategy
from evomerge.testing import check_strategy

SPACE = parameter_space()
CROSSOVER = CrossoverSpace(parents=["a", "b"], host="a", stack="model.layers", layers=2)


def outcome(recipe):
    """Return four scores of documents that depend on the recipe alone."""
    values = np.random.RandomState(int(recipe.digest[:6], 16)).randint(5, size=4) / 4
    score = float(values.mean())
    return Scores({"task": (0, 1, 2, 3)}, {"task/acc": tuple(values)}, {"task/acc": score})


def of_genomes(name):
    def values(scores):
        return (scores.aggregates["task/acc"],)

    return GenomeStrategy(SPACE, create(name, SPACE.genes, seed=3), values)


def niches(generation):
    def documents(scores):
        return np.array(scores.values["task/acc"]), np.ones(4)

    setting = NichesSetting(archive=4, generation=generation)
    return NichesStrategy(CROSSOVER, documents, setting, seed=5)


@pytest.mark.parametrize("name", ["random", "cma", "two-points-de", "discrete-lengler"])
def test_a_search_of_genomes_keeps_the_laws(name):
    check_strategy(lambda: of_genomes(name), SPACE.baselines(), outcome)


@pytest.mark.parametrize("generation", [1, 3])
def test_niches_keep_the_laws(generation):
    check_strategy(lambda: niches(generation), CROSSOVER.baselines(), outcome)


class Flawed:
    """A strategy with one flaw."""

    def __init__(self, flaw):
        self.inner, self.flaw = of_genomes("random"), flaw
        self.add_baseline, self.generation = self.inner.add_baseline, self.inner.generation
        self.left = 0 if flaw == "left" else 1

    def ask(self, number):
        if self.flaw == "global" and np.random.uniform() < 0.5:
            self.inner.ask(number)
        return self.inner.ask(number)

    def repeat(self, number, label, origin):
        if self.flaw != "repeat" or label is not None:
            self.inner.repeat(number, label, origin)

    def tell(self, number, found):
        if self.flaw != "repeat" or number in self.inner._candidates:
            self.inner.tell(number, found)


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [("left", "`left` is 0"), ("global", "global generator"), ("repeat", "After `repeat`")],
)
def test_a_flawed_strategy_is_caught(flaw, sentence):
    check_strategy(lambda: Flawed(None), SPACE.baselines(), outcome)
    with pytest.raises(AssertionError, match=sentence):
        check_strategy(lambda: Flawed(flaw), SPACE.baselines(), outcome)
