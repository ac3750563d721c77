"""What a journal says: candidates, their outcomes, the winner.

Folded from the events alone, so a reader, a resumed search and a report see the same run. Who
leads is not decided here (see `evomerge.search.ranking`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import RunFolderError, one_line
from evomerge.parsing.values import shown
from evomerge.run.events import check_event
from evomerge.run.journal import Event
from evomerge.scores import Failure, Outcome, Scores, Split


@dataclass
class Candidate:
    """One numbered trial.

    Attributes:
        number: 0, 1, 2, ... in the order they were asked.
        label: label of a baseline (a parent's reference, `uniform`), or None for what the
            strategy proposed.
        digest: digest of its recipe.
        origin: where the recipe came from, in the strategy's own terms (a genome, say).
        generation: number of the generation it was proposed in; None for a baseline.
        incumbent: number of the candidate it is compared with while it is scored, if any.
        known: how many outcomes the journal had when its generation began; what a fidelity policy
            may build on.
        outcomes: what came out, by split.
        told: the first outcome on the search split, as the strategy was told it: an estimate
            stays one here when it is completed later.
        values: what the objectives came to on the search split, higher is better; None while open
            or if failed.
    """

    number: int
    label: str | None
    digest: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    generation: int | None = None
    incumbent: int | None = None
    known: int = 0
    outcomes: dict[Split, Outcome] = field(default_factory=dict)
    told: Outcome | None = None
    values: tuple[float, ...] | None = None

    @property
    def name(self) -> str:
        """The baseline's label, or `optimizer` for what the strategy proposed."""
        return "optimizer" if self.label is None else self.label

    @property
    def fitness(self) -> float | None:
        """The only value, None where there is none or are several."""
        return self.values[0] if self.values is not None and len(self.values) == 1 else None

    @property
    def is_estimate(self) -> bool:
        """Whether its values were estimated from some of the search documents."""
        scores = self.scores("search")
        return scores is not None and bool(scores.expected)

    @property
    def status(self) -> str:
        """`open`, `scored` or `failed`."""
        outcome = self.outcomes.get("search")
        return "open" if outcome is None else "failed" if isinstance(outcome, Failure) else "scored"

    def scores(self, split: Split) -> Scores | None:
        """Return the scores on a split, or None."""
        outcome = self.outcomes.get(split)
        return outcome if isinstance(outcome, Scores) else None


class History:
    """The state of a run, folded from its events one by one.

    Attributes:
        candidates: all of them, by number.
        told: those with an outcome, in the order in which the outcomes came.
        winner: what the validation documents chose, once they did.
        budget: the latest bounds set by `resume`, by name.
        halvings: how often batches have been halved, since memory ran out.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.candidates: list[Candidate] = []
        self.told: list[Candidate] = []
        self.winner: Candidate | None = None
        self.budget: dict[str, Any] = {}
        self.halvings = 0
        self._open: dict[int, Candidate] = {}
        self._alike: dict[str, list[Candidate]] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take in the next event.

        Raises:
            RunFolderError: it does not follow from the events before.
        """
        check_event(event)
        try:
            self._apply(event)
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RunFolderError(
                f"The journal has an event {shown(event.get('event'))} that does not follow from "
                f"those before it ({type(error).__name__}: {one_line(error)}); restore the journal "
                "from a copy."
            ) from error

    def _apply(self, event: Event) -> None:
        match event.get("event"):
            case "ask":
                if event["candidate"] != len(self.candidates):
                    raise ValueError(f"candidate {event['candidate']} is out of turn")
                candidate = Candidate(
                    number=event["candidate"],
                    label=event.get("label"),
                    digest=event["digest"],
                    origin=event.get("origin", {}),
                    generation=event.get("generation"),
                    incumbent=event.get("incumbent"),
                    known=event.get("known", 0),
                )
                self.candidates.append(candidate)
                self._open[candidate.number] = candidate
                self._alike.setdefault(candidate.digest, []).append(candidate)
            case "tell":
                candidate = self._candidate(event)
                if "same_as" in event:
                    known = self.candidates[event["same_as"]]
                    candidate.outcomes["search"] = known.outcomes["search"]
                else:
                    candidate.outcomes["search"] = outcome_of(event)
                candidate.values = _values(event)
                candidate.told = candidate.outcomes["search"]
                self.told.append(candidate)
                self._open.pop(candidate.number, None)
            case "complete":
                candidate = self._candidate(event)
                candidate.outcomes["search"] = outcome_of(event)
                candidate.values = _values(event)
            case "score":
                self._candidate(event).outcomes[event["split"]] = outcome_of(event)
            case "winner":
                self.winner = self._candidate(event)
            case "budget":
                self.budget.update({k: v for k, v in event.items() if k != "event"})
            case "memory":
                self.halvings = int(event["halvings"])

    def _candidate(self, event: Event) -> Candidate:
        number = event["candidate"]
        if not isinstance(number, int) or not 0 <= number < len(self.candidates):
            raise ValueError(f"there is no candidate {number!r}")
        return self.candidates[number]

    @property
    def open(self) -> list[Candidate]:
        """Candidates asked and not told yet, by number."""
        return list(self._open.values())

    @property
    def baselines(self) -> list[Candidate]:
        """Parents and the uniform merge."""
        return [item for item in self.candidates if item.label is not None]

    def alike(self, candidate: Candidate) -> list[Candidate]:
        """Return the candidates before this one that have the same recipe."""
        return [item for item in self._alike[candidate.digest] if item.number < candidate.number]

    def chosen(self, which: str, best: Candidate | None) -> Candidate:
        """Return the candidate that a person names.

        Args:
            which: `best` or a number.
            best: what `best` stands for.

        Raises:
            RunFolderError: there is no such candidate, or none is scored yet.
        """
        if which == "best":
            if best is None:
                raise RunFolderError("The run has no scored candidate yet.")
            return best
        if not (which.isascii() and which.isdigit()) or int(which) >= len(self.candidates):
            raise RunFolderError(
                f"--candidate is {which!r}; it must be `best` or a number from 0 to "
                f"{len(self.candidates) - 1}."
            )
        return self.candidates[int(which)]


def _values(event: Event) -> tuple[float, ...] | None:
    """Return the values of an event; None where one is not a finite number."""
    values = event.get("values")
    found = None if values is None else tuple(float(value) for value in values)
    return found if found and all(map(math.isfinite, found)) else None


def outcome_of(event: Event) -> Outcome:
    """Return the outcome a `tell`, `complete` or `score` event carries."""
    if "failure" in event:
        return Failure(**event["failure"])
    return Scores.from_dict(event["scores"])


def outcome_fields(outcome: Outcome) -> Event:
    """Return the part of an event that carries an outcome, without times."""
    if isinstance(outcome, Failure):
        return {"failure": {"stage": outcome.stage, "reason": outcome.reason}}
    plain = outcome.to_dict()
    del plain["seconds"]
    return {"scores": plain}
