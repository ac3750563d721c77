"""The earlier candidates whose scores a fidelity policy is given."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.run.history import Candidate
from evomerge.scores import Scores


@dataclass(frozen=True)
class Window:
    """Which earlier candidates a fidelity policy is given.

    Attributes:
        recent: largest number of candidates, 1 or more; those with the highest numbers are taken.
        whole: take only candidates that were scored on all documents.
    """

    recent: int
    whole: bool


class Recent:
    """Finds the scores in a window, for one candidate after the other.

    Each candidate is mostly asked with a little more known outcomes than the one before, so what
    was found for that one is used again.

    Args:
        window: the window.
        told: the candidates with an outcome, in the order in which the outcomes came; it grows.
    """

    def __init__(self, window: Window, told: Sequence[Candidate]) -> None:
        self._window, self._told = window, told
        self._known = 0
        self._found: list[tuple[int, Scores]] = []
        self._scores: tuple[Scores, ...] = ()

    def scores(self, known: int) -> tuple[Scores, ...]:
        """Return the scores in the window, by candidate number.

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
        if not isinstance(scores, Scores) or (self._window.whole and scores.expected):
            return
        insort(self._found, (candidate.number, scores), key=lambda item: item[0])
        del self._found[: -self._window.recent]
