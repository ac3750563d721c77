"""The laws of strategies hold for those of the package, and broken ones are found."""

import numpy as np
import pytest
from scripted import space as parameter_space
from strategy_laws import check_strategy

from evomerge.optimize import create
from evomerge.scores import Failure, Scores
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
    check_strategy(lambda seed: Flawed(None), SPACE.baselines(), outcome, learns=False)
    with pytest.raises(AssertionError, match=sentence):
        check_strategy(lambda seed: Flawed(flaw), SPACE.baselines(), outcome, learns=False)


class Mistold:
    """A right strategy that is told something else."""

    def __init__(self, inner, flaw):
        self.inner, self.flaw, self.generation, self.kept = inner, flaw, inner.generation, []
        self.add_baseline, self.ask, self.repeat = inner.add_baseline, inner.ask, inner.repeat

    @property
    def left(self):
        return self.inner.left

    def tell(self, number, found):
        if self.flaw == "failures best" and isinstance(found, Failure):
            found = Scores({"task": (0, 1, 2, 3)}, {"task/acc": (9.0,) * 4}, {"task/acc": 9.0})
        if self.flaw == "minimises" and isinstance(found, Scores):
            values = tuple(1 - value for value in found.values["task/acc"])
            found = Scores(found.documents, {"task/acc": values}, {"task/acc": np.mean(values)})
        if self.flaw == "late":  # by a generation
            self.kept.append((number, found))
            if len(self.kept) <= self.generation:
                return
            number, found = self.kept.pop(0)
        if self.flaw != "deaf":
            self.inner.tell(number, found)


UNLEARNED, NO_BETTER = "has not learned its outcome", "proposes no better recipes"


@pytest.mark.parametrize(
    ("flaw", "sentence"),
    [
        ("deaf", UNLEARNED),
        ("late", UNLEARNED),
        # The last bits of scores decide which of two it is that such a strategy is caught by.
        ("minimises", f"{UNLEARNED}|{NO_BETTER}"),
        ("failures best", f"{UNLEARNED}|{NO_BETTER}"),
    ],
)
def test_a_strategy_that_does_not_learn_is_caught(flaw, sentence):
    with pytest.raises(AssertionError, match=sentence):
        check_strategy(
            lambda seed: Mistold(of_genomes("cma", seed), flaw), SPACE.baselines(), outcome
        )
