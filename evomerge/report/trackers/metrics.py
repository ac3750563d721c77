"""The numbers of a search that are logged to a tracker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from evomerge.report.rows import FINAL_SPLITS, candidate_rows
from evomerge.run.history import Candidate, History
from evomerge.run.lines import Event
from evomerge.scores import Objective
from evomerge.searching.ranking import Ranking, measured


class StepMetrics:
    """Makes the metrics of each step; it must see all events, in their order.

    A step is an outcome on the search documents. Steps are numbered in the order of the outcomes,
    from 0. If the outcomes come in the order of asking, a step is the candidate's number.

    Args:
        ranking: what compares the candidates of the search.
    """

    def __init__(self, ranking: Ranking) -> None:
        self._objectives, self._ranking = measured(ranking), ranking
        self._incumbents: list[Candidate] = []
        self._failed = 0

    def of(self, history: History, event: Event) -> dict[str, float] | None:
        """Return the metrics of an event's step; None if the event is no step.

        Args:
            history: the state of the run after the event.
            event: the event. `seconds` are the wall-clock seconds of each phase, if it has them.
        """
        if event["event"] not in ("tell", "complete"):
            return None
        candidate = history.candidates[event["candidate"]]
        self._incumbents = self._ranking.incumbents([*self._incumbents, candidate])
        if event["event"] == "complete":
            return None
        scores = candidate.scores("search")
        self._failed += scores is None
        found: dict[str, float | None] = {
            "candidate": candidate.number,
            "generation": candidate.generation,
            "fitness": candidate.fitness,
            "best_fitness": self._incumbents[0].fitness if self._incumbents else None,
            "front": len(self._incumbents) if self._ranking.has_front else None,
            "failed": self._failed,
            "estimated": int(candidate.is_estimate),
            "documents": sum(scores.fidelity.values()) if scores else 0,
        }
        if scores is not None:
            for item in self._objectives:
                known = scores.expected.get(item.key)
                score = scores.aggregates[item.key] if known is None else known.value
                found[f"search/{item.key}"] = score
        for phase, seconds in event.get("seconds", {}).items():
            found[f"seconds/{phase}"] = seconds
        return {name: value for name, value in found.items() if value is not None}


def final_rows(history: History, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """Return a row for each model that was scored on validation or test documents.

    These are the parents, the uniform merge, the finalists and the winner.
    """
    rows = candidate_rows(history, objectives)
    final = [any(split in item.outcomes for split in FINAL_SPLITS) for item in history.candidates]
    unused = {"generation", "digest", "status", "failure", "error"}
    return [
        {name: value for name, value in row.items() if name not in unused}
        for row, is_final in zip(rows, final, strict=True)
        if is_final
    ]


def summary(history: History, objectives: Sequence[Objective]) -> dict[str, Any]:
    """Return the winner's number and name, and its scores on validation and test documents."""
    winner = history.winner
    if winner is None:
        return {}
    values: dict[str, Any] = {"winner": winner.number, "winner_name": winner.name}
    for split in FINAL_SPLITS:
        scores = winner.scores(split)
        if scores is not None:
            values |= {f"{split}/{item.key}": scores.aggregates[item.key] for item in objectives}
    return values
