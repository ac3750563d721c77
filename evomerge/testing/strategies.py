"""The laws of search strategies."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from evomerge.recipe import Recipe
from evomerge.scores import Failure, Outcome
from evomerge.strategy.protocol import Strategy
from evomerge.testing.require import require


def check_strategy(
    create: Callable[[], Strategy],
    baselines: Mapping[str, Recipe],
    outcome: Callable[[Recipe], Outcome],
    candidates: int = 60,
) -> None:
    """Check the laws of `evomerge.strategy.protocol.Strategy`.

    Searches are made with one, four and a generation of open candidates, of which some fail, some
    are told late, and some are never told; and repeated, as a resumed search does it.

    Args:
        create: returns a new strategy, always with the same seed.
        baselines: label -> recipe of its baselines, which are candidates 0, 1, 2, ...
        outcome: scores a recipe; a function of the recipe alone.
        candidates: number of candidates in a search, baselines not included.

    Raises:
        AssertionError: a law is broken.
    """
    kept = np.random.get_state()
    require(create().generation >= 1, "A generation is below 1.")
    for width in (1, 4, create().generation):
        np.random.seed(1)
        first = _play(create(), None, baselines, outcome, candidates, width)
        drawn = np.random.uniform()
        np.random.seed(1)
        require(drawn == np.random.uniform(), "The strategy draws from numpy's global generator.")
        require(
            first == _play(create(), None, baselines, outcome, candidates, width),
            "The same calls gave different recipes, so a run could not be resumed.",
        )
        require(
            first == _play(create(), create(), baselines, outcome, candidates, width),
            "After `repeat` of the recorded origins it proposes other recipes.",
        )
    np.random.set_state(kept)


def _play(
    strategy: Strategy,
    resumed: Strategy | None,
    baselines: Mapping[str, Recipe],
    outcome: Callable[[Recipe], Outcome],
    candidates: int,
    width: int,
) -> list[Recipe]:
    """Search, and return all recipes.

    Args:
        strategy: a new strategy.
        resumed: another one that repeats the first half of all calls, and then goes on instead.
        baselines: label -> recipe; they are told first.
        outcome: scores a recipe.
        candidates: number of candidates.
        width: number of open candidates.
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
