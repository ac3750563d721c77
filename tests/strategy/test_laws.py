"""The laws of strategies hold for those of the package, and broken ones are found."""

import numpy as np
import pytest
from scripted import space as parameter_space
from strategy_laws import check_strategy

from evomerge.optimize import create
from evomerge.scores import Scores
from evomerge.strategy.genome import GenomeStrategy

pytestmark = pytest.mark.thorough

SPACE = parameter_space()


GOALS = (0.9, 0.1, 0.8, 0.2)


def outcome(recipe):
    """Return the scores of four documents; each asks for another share of parent b at one place."""
    layers = [recipe.embeddings, *recipe.layers["model.layers"], recipe.head]
    shares = [source.knobs["weight"] for layer in layers[1:3] for source in layer.sources]
    shares += [0.0] * (4 - len(shares))
    values = 1 - np.abs(np.array(shares) - GOALS)
    score = float(values.mean())
    return Scores({"task": (0, 1, 2, 3)}, {"task/acc": tuple(values)}, {"task/acc": score})


def of_genomes(name, seed=3):
    def values(scores):
        return (scores.aggregates["task/acc"],)

    return GenomeStrategy(SPACE, create(name, SPACE.genes, seed=seed), values)


@pytest.mark.parametrize("name", ["random", "cma", "two-points-de"])
def test_a_search_of_genomes_keeps_the_laws(name):
    check_strategy(
        lambda seed: of_genomes(name, seed), SPACE.baselines(), outcome, learns=name != "random"
    )


class Flawed:
    """A strategy with one flaw, or a right one that is told something else."""

    def __init__(self, name, seed, flaw):
        self.inner, self.flaw = of_genomes(name, seed), flaw
        self.add_baseline, self.generation = self.inner.add_baseline, self.inner.generation

    @property
    def left(self):
        return 0 if self.flaw == "left" else self.inner.left

    def ask(self, number):
        if self.flaw == "global" and np.random.uniform() < 0.5:
            self.inner.ask(number)
        return self.inner.ask(number)

    def repeat(self, number, label, origin):
        if self.flaw != "repeat" or label is not None:
            self.inner.repeat(number, label, origin)

    def tell(self, number, found):
        if self.flaw == "minimises" and isinstance(found, Scores):
            values = tuple(1 - value for value in found.values["task/acc"])
            found = Scores(found.documents, {"task/acc": values}, {"task/acc": np.mean(values)})
        if self.flaw != "deaf" and (self.flaw != "repeat" or number in self.inner._candidates):
            self.inner.tell(number, found)


UNLEARNED = "proposes no better recipes"


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("left", "`left` is 0"),
        ("global", "global generator"),
        ("repeat", "After `repeat`"),
        ("deaf", UNLEARNED),
        ("minimises", UNLEARNED),
    ],
)
def test_a_flawed_strategy_is_caught(flaw, sentence):
    learns = flaw in ("deaf", "minimises")
    name = "cma" if learns else "random"
    with pytest.raises(AssertionError, match=sentence):
        check_strategy(
            lambda seed: Flawed(name, seed, flaw), SPACE.baselines(), outcome, learns=learns
        )
