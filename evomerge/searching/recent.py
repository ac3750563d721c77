"""The earlier candidates whose scores a race is given."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

from evomerge.run.history import Candidate
from evomerge.scores import Scores


class Recent:
    """Finds the scores of the latest candidates, for one candidate after the other.

    Each candidate is mostly asked with a little more known outcomes than the one before, so what
    was found for that one is used again.

    Args:
        most: largest number of candidates, 1 or more; those with the highest numbers are taken.
        told: the candidates with an outcome, in the order in which the outcomes came; it grows.
    """

    def __init__(self, most: int, told: Sequence[Candidate]) -> None:
        self._most, self._told = most, told
        self._known = 0
        self._found: list[tuple[int, Scores]] = []
        self._scores: tuple[Scores, ...] = ()

    def scores(self, known: int) -> tuple[Scores, ...]:
        """Return the scores, by candidate number.

        Args:
            known: number of the first outcomes that may be used.
        """
        if known < self._known:
            self._known, self._found, self._scores = 0, [], ()
        if known > self._known:
            for candidate in self._told[self._known : known]:
                self._add(candidate)
            self._known = known
            self._scores = tuple(scores for _, scores in self._found)
        return self._scores

    def _add(self, candidate: Candidate) -> None:
        scores = candidate.told
        if not isinstance(scores, Scores):
            return
        insort(self._found, (candidate.number, scores), key=lambda item: item[0])
        del self._found[: -self._most]
