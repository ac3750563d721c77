"""Who leads: from outcomes to an incumbent and finalists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from evomerge.run.history import Candidate, History
from evomerge.scores import Objective, Scores, Split, fitness


class Ranking(Protocol):
    """Compares candidates.

    Laws: who leads depends on the candidates alone, not on their order; an estimate, a failure or
    a value that is not finite never leads.
    """

    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return what scores come to, higher is better; nan where a score is not a number."""
        ...

    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return who leads on a split; empty where nobody was scored on all its documents."""
        ...

    def finalists(self, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
        """Return the best on the search documents, estimates among them, best first.

        Candidates of one recipe stand for it together: only the first of them is returned.
        """
        ...


@dataclass(frozen=True)
class WeightedSum:
    """One number a candidate: the weighted mean of the objectives.

    Attributes:
        objectives: what is added up.
    """

    objectives: Sequence[Objective]

    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return the fitness, alone."""
        return (fitness(self.objectives, scores),)

    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return the best candidate, the earliest among equals, or nobody."""
        scored = [
            (value, -item.number, item)
            for item in candidates
            if (value := self._value(item, split)) is not None
            and not (split == "search" and item.is_estimate)
        ]
        return [max(scored, key=lambda entry: entry[:2])[2]] if scored else []

    def finalists(self, candidates: Iterable[Candidate], count: int) -> list[Candidate]:
        """Return the `count` best candidates of different recipes, best first."""
        scored = [item for item in candidates if item.values is not None]
        chosen: dict[str, Candidate] = {}
        for item in sorted(scored, key=lambda item: (-(item.values or (0.0,))[0], item.number)):
            if len(chosen) == count:
                break
            chosen.setdefault(item.digest, item)
        return list(chosen.values())

    def _value(self, candidate: Candidate, split: Split) -> float | None:
        """Return a candidate's fitness on a split, None without a finite one."""
        if split == "search":
            return None if candidate.values is None else candidate.values[0]
        scores = candidate.scores(split)
        value = fitness(self.objectives, scores) if scores else None
        return None if value is None or value != value else value


def best_of(history: History, ranking: Ranking) -> Candidate | None:
    """Return the winner if it was chosen, else who leads on the search documents."""
    if history.winner is not None:
        return history.winner
    return next(iter(ranking.incumbents(history.candidates)), None)
