"""The laws of strategies hold for those of the package, and broken ones are found."""

import numpy as np
import pytest
from scripted import space as parameter_space
from strategy_laws import check_strategy

from evomerge.optimize import create
from evomerge.scores import Failure, Scores
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.niches import CrossoverSpace, NichesOptions, NichesStrategy

pytestmark = pytest.mark.thorough

SPACE = parameter_space()
CROSSOVER = CrossoverSpace(parents=["a", "b"], host="a", stacks={"model.layers": 2})


GOALS = (0.9, 0.1, 0.8, 0.2)


def outcome(recipe):
    """Return the scores of four documents; each asks for another share of parent b at one place."""
    layers = [recipe.embeddings, *recipe.layers["model.layers"], recipe.head]
    if recipe.embeddings.method == "linear":
        shares = [source.knobs["weight"] for layer in layers[1:3] for source in layer.sources]
        shares += [0.0] * (4 - len(shares))
    else:
        shares = shares_of_b(recipe)
    values = 1 - np.abs(np.array(shares) - GOALS)
    score = float(values.mean())
    return Scores({"task": (0, 1, 2, 3)}, {"task/acc": tuple(values)}, {"task/acc": score})


def shares_of_b(recipe):
    """Return the share of parent b at each place of a crossover, also of one of earlier ones."""

    known = {"a": np.zeros(4), "b": np.ones(4)}
    for name, item in [*recipe.lineage.items(), ("itself", recipe)]:
        layers = [item.embeddings, *item.layers["model.layers"], item.head]
        ends = [(layer.sources[0].parent, layer.sources[-1].parent) for layer in layers]
        t = np.array([layer.knobs.get("t", 0.0) for layer in layers])
        first, last = (
            np.array([known[end[k]][place] for place, end in enumerate(ends)]) for k in (0, 1)
        )
        known[name] = first + t * (last - first)
    return known["itself"]


def of_genomes(name, seed=3):
    def values(scores):
        return (scores.aggregates["task/acc"],)

    return GenomeStrategy(SPACE, create(name, SPACE.genes, seed=seed), values)


def niches(generation, seed=5):
    def documents(scores):
        return np.array(scores.values["task/acc"]), np.ones(4)

    setting = NichesOptions(archive=4)
    return NichesStrategy(CROSSOVER, documents, setting, seed, generation)


@pytest.mark.parametrize("name", ["random", "cma", "two-points-de"])
def test_a_search_of_genomes_keeps_the_laws(name):
    check_strategy(
        lambda seed: of_genomes(name, seed), SPACE.baselines(), outcome, learns=name != "random"
    )


@pytest.mark.parametrize("generation", [1, 3])
def test_niches_keep_the_laws(generation):
    check_strategy(lambda seed: niches(generation, seed), CROSSOVER.baselines(), outcome)


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
    ("flaw", "of_a_genome", "of_niches"),
    [
        ("deaf", UNLEARNED, UNLEARNED),
        ("late", UNLEARNED, UNLEARNED),
        ("minimises", NO_BETTER, UNLEARNED),  # its best is not kept, like a failure
        ("failures best", NO_BETTER, "have failed, but an origin names them as mates"),
    ],
)
def test_a_strategy_that_does_not_learn_is_caught(flaw, of_a_genome, of_niches):
    with pytest.raises(AssertionError, match=of_a_genome):
        check_strategy(
            lambda seed: Mistold(of_genomes("cma", seed), flaw), SPACE.baselines(), outcome
        )
    with pytest.raises(AssertionError, match=of_niches):
        check_strategy(lambda seed: Mistold(niches(3, seed), flaw), CROSSOVER.baselines(), outcome)
