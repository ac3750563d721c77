"""The laws of strategies hold for those of the package, and broken ones are found."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pytest
from numpy.typing import NDArray
from scripted import space as parameter_space
from search_laws import rank_sum

from evomerge.optimize import create
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Outcome, Scores
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.protocol import Strategy
from evomerge.testing.require import check_repeats, require

pytestmark = pytest.mark.thorough

Array: TypeAlias = NDArray[np.float64]


def check_strategy(
    create: Callable[[int], Strategy],
    baselines: Mapping[str, Recipe],
    outcome: Callable[[Recipe], Outcome],
    candidates: int = 60,
    learns: bool = True,
) -> None:
    """Check the laws of `evomerge.strategy.protocol.Strategy`, and that it learns.

    Searches are made with one, four and a generation of open candidates, of which some fail, some
    are told late, and some are never told; and repeated, as a resumed search does it.

    Told which recipes are good, while the worst quarter fails, it must propose better ones in the
    second half of a search than the same strategy that is told nothing: in a rank-sum test of ten
    seeds against ten, with an error of 1 %.

    Args:
        baselines: label -> recipe of its baselines, which are candidates 0, 1, 2, ...
        outcome: scores a recipe; a function of the recipe alone. If the strategy learns, it must
            be one that can be learned, and more is better in the mean of the aggregates.
        learns: False for a strategy like random search, which learns nothing.
    """
    require(create(3).generation >= 1, "A generation is below 1.")
    for width in (1, 4, create(3).generation):

        def play(resumed: Strategy | None, width: int = width) -> list[Recipe]:
            return _play(create(3), resumed, baselines, outcome, candidates, width)

        require(
            check_repeats(lambda: play(None), "strategy") == play(create(3)),
            "After `repeat` of the recorded origins it proposes other recipes.",
        )
    if learns:
        _check_learning(create, baselines, outcome, candidates)


def _check_learning(
    create: Callable[[int], Strategy],
    baselines: Mapping[str, Recipe],
    outcome: Callable[[Recipe], Outcome],
    candidates: int,
) -> None:
    seeds, nothing = range(10), Failure("lost", "not told")
    deaf = [
        _values(_told(create(seed), baselines, candidates, lambda recipe: None), outcome)
        for seed in seeds
    ]
    worst = float(np.quantile(np.concatenate(deaf), 0.25))

    def told(recipe: Recipe) -> Outcome:
        found = outcome(recipe)
        return found if _value(found) > worst else nothing

    able = [_values(_told(create(seed), baselines, candidates, told), outcome) for seed in seeds]
    half = candidates // 2
    better = rank_sum(
        [([-row[half:].mean() for row in able], [-row[half:].mean() for row in deaf])]
    )
    require(
        better < 0.01,
        "Told the outcomes, the strategy proposes no better recipes than if it is told nothing.",
    )


def _told(
    strategy: Strategy,
    baselines: Mapping[str, Recipe],
    candidates: int,
    told: Callable[[Recipe], Outcome | None],
) -> list[Recipe]:
    """Search generation by generation, and return the recipes; None is not told."""
    waiting: list[tuple[int, Recipe]] = []
    recipes: list[Recipe] = []

    def tell() -> None:
        for number, recipe in waiting:
            found = told(recipe)
            if found is not None:
                strategy.tell(number, found)
        waiting.clear()

    for number, label in enumerate(baselines):
        strategy.add_baseline(number, label)
        waiting.append((number, baselines[label]))
    tell()
    for number in range(len(baselines), len(baselines) + candidates):
        recipes.append(strategy.ask(number).recipe)
        waiting.append((number, recipes[-1]))
        if len(waiting) == strategy.generation:
            tell()
    return recipes


def _values(recipes: Sequence[Recipe], outcome: Callable[[Recipe], Outcome]) -> Array:
    return np.array([_value(outcome(recipe)) for recipe in recipes])


def _value(outcome: Outcome) -> float:
    """Return the mean of the aggregates; very little for a failure."""
    return float(np.mean([*outcome.aggregates.values()])) if isinstance(outcome, Scores) else -1e9


def _play(
    strategy: Strategy,
    resumed: Strategy | None,
    baselines: Mapping[str, Recipe],
    outcome: Callable[[Recipe], Outcome],
    candidates: int,
    width: int,
) -> list[Recipe]:
    """Search with `width` open candidates, and return all recipes.

    `resumed` repeats the first half of all calls, and then goes on instead of the strategy.
    """
    order = np.random.RandomState(candidates)
    both = [strategy] if resumed is None else [strategy, resumed]
    for number, label in enumerate(baselines):
        origin = strategy.add_baseline(number, label)
        if resumed is not None:
            resumed.repeat(number, label, origin)
        for one in both:
            one.tell(number, outcome(baselines[label]))
    recipes: list[Recipe] = []
    waiting: list[tuple[int, Recipe]] = []
    for number in range(len(baselines), len(baselines) + candidates):
        lacking, generation = both[-1].left, strategy.generation
        require(1 <= lacking <= generation, f"`left` is {lacking} of a generation of {generation}.")
        if resumed is not None and len(recipes) >= candidates // 2:
            both = [resumed]
        proposal = both[0].ask(number)
        if len(both) == 2:
            both[1].repeat(number, None, proposal.origin)
        recipes.append(proposal.recipe)
        waiting.append((number, proposal.recipe))
        if len(waiting) < width:
            continue
        for _ in range(width if width == generation else 1):
            told, recipe = waiting.pop(order.randint(len(waiting)))
            fate = order.rand()
            if fate > 0.05:  # the others are never told
                found = Failure("merge", "not finite") if fate < 0.15 else outcome(recipe)
                for one in both:
                    one.tell(told, found)
    return recipes


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
        if self.flaw != "deaf" and (self.flaw != "repeat" or number in self.inner._open):
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
