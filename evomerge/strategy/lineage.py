"""The recipes of candidates that merge earlier ones, made of their origins."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.recipe import MEMBER, Recipe
from evomerge.run.history import Candidate
from evomerge.space.mates import Mate, MateSpace
from evomerge.strategy.protocol import Origin


class Lineage:
    """Makes the recipe of each candidate from those of its mates.

    Args:
        space: makes the recipe of a child.
    """

    def __init__(self, space: MateSpace) -> None:
        self._space, self._baselines = space, space.baselines()
        self._mates: dict[int, Mate] = {}

    def add(self, number: int, label: str | None, origin: Origin) -> None:
        """Add a candidate. Its mates must have been added.

        Args:
            number: its number.
            label: the label of a baseline; None for a child of earlier candidates.
            origin: the origin of a child: `mates` are the numbers of the candidates that it merges.

        Raises:
            ValueError: there is no such baseline, or this is no origin of a child.
        """
        try:
            recipe = self._baselines[label] if label is not None else self._child(origin)
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{label or dict(origin)!r} is no merge of earlier candidates"
            ) from error
        is_parent = label is not None and label in self._space.parents
        reference = label if is_parent and label is not None else f"{MEMBER}{number}"
        self._mates[number] = Mate(reference, recipe)

    def __contains__(self, number: int) -> bool:
        return number in self._mates

    def recipe(self, number: int) -> Recipe:
        """Return the recipe of a candidate that was added."""
        return self._mates[number].recipe

    def _child(self, origin: Origin) -> Recipe:
        mates = [self._mates[number] for number in origin["mates"]]
        return self._space.child(origin, mates)


def recipe_in(space: MateSpace, candidates: Sequence[Candidate], number: int) -> Recipe:
    """Return the recipe of one candidate of a run.

    Args:
        space: the space of the run.
        candidates: the candidates of the run, by number.
        number: the candidate.

    Raises:
        ValueError: an origin is not that of a child.
        IndexError: a mate is no candidate.
    """
    needed, unseen = {number}, [number]
    while unseen:
        new = set(candidates[unseen.pop()].origin.get("mates", ())) - needed
        needed |= new
        unseen += new
    lineage = Lineage(space)
    for item in sorted(needed):
        lineage.add(item, candidates[item].label, candidates[item].origin)
    return lineage.recipe(number)
