"""Rankings: from the outcomes of candidates to the incumbent and the finalists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evomerge.run.history import Candidate, History
from evomerge.scores import Objective, Scores, Split, fitness


class Ranking(Protocol):
    """Compares candidates.

    Laws: the incumbents depend only on the candidates, not on their order. A candidate with an
    estimated score, a failure or a value that is not finite is never an incumbent.
    """

    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return the values that candidates are compared by; higher is better.

        A value is nan if a score is nan.
        """
        ...

    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return the best candidates on a split; none if no candidate was scored on all of it."""
        ...

    def finalists(self, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
        """Return the `count` best candidates on the search documents, the best one first.

        Estimated scores count too. Of several candidates with the same recipe, only the first one
        is returned.
        """
        ...


@dataclass(frozen=True)
class WeightedSum:
    """Ranks by one number, the fitness: the weighted mean of the objectives.

    Attributes:
        objectives: the objectives with their weights.
    """

    objectives: Sequence[Objective]

    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return the fitness as the only value."""
        return (fitness(self.objectives, scores),)

    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return the best candidate, the earliest of several equal ones; or an empty list."""
        scored = [
            (value, -item.number, item)
            for item in candidates
            if (value := self._value(item, split)) is not None
            and not (split == "search" and item.is_estimate)
        ]
        return [max(scored, key=lambda entry: entry[:2])[2]] if scored else []

    def finalists(self, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
        """Return the `count` best candidates with different recipes, the best one first."""
        scored = [item for item in candidates if item.values is not None]
        chosen: dict[str, Candidate] = {}
        for item in sorted(scored, key=lambda item: (-(item.values or (0.0,))[0], item.number)):
            if len(chosen) == count:
                break
            chosen.setdefault(item.digest, item)
        return list(chosen.values())

    def _value(self, candidate: Candidate, split: Split) -> float | None:
        """Return a candidate's fitness on a split; None if it has no finite fitness."""
        if split == "search":
            return None if candidate.values is None else candidate.values[0]
        scores = candidate.scores(split)
        value = fitness(self.objectives, scores) if scores else None
        return None if value is None or value != value else value


def best_of(history: History, ranking: Ranking) -> Candidate | None:
    """Return the winner; before there is one, the incumbent on the search documents, or None."""
    if history.winner is not None:
        return history.winner
    return next(iter(ranking.incumbents(history.candidates)), None)
