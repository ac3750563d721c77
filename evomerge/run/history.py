"""The state of a run, from the events of its journal alone: candidates, outcomes, the winner.

So a running search, a resumed one and a report have the same state. A ranking says who is best.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from itertools import takewhile
from typing import Any

from evomerge.errors import RunFolderError
from evomerge.parsing.values import shown
from evomerge.recipe import Recipe
from evomerge.run.journal import Event
from evomerge.scores import Failure, Outcome, Scores, Split

BASE = -1
"""Number of the base in events, which is no candidate: no strategy and no ranking knows of it."""

_ASKED = ("label", "origin", "generation", "fresh")  # of a candidate, in its event

BELIEVED = "believed"
"""Key in the origin of a candidate that the strategy believes in (`Candidate.is_believed`)."""


PREPARED = "leg"
"""Name of an event with what a strategy needed before a candidate, and `place` is its slot.

Journals keep the words of earlier releases.
"""


@dataclass(repr=False)
class Candidate:
    """One numbered trial.

    Attributes:
        number: 0, 1, 2, ... in the order of asking.
        label: that of a baseline (a parent's reference, `uniform`); None for what was proposed.
        digest: digest of the recipe.
        origin: what the strategy made the recipe from, for example a genome.
        fresh: number of documents of each task in the sample of its generation, on which it is
            scored; None: on all search documents.
        outcomes: the latest outcome on each split.
        first_outcome: the first one on the search documents, which the strategy was told.
        as_itself: the splits on which a parent was scored with its own settings and dtype.
        values: those that people see (`Ranking.values`); None if there are none.
        recipe: that of a candidate that was asked in this session and has no outcome yet.
    """

    number: int
    label: str | None = None
    digest: str = ""
    _: KW_ONLY
    origin: Mapping[str, Any] = field(default_factory=dict)
    generation: int | None = None
    fresh: int | None = None
    outcomes: dict[Split, Outcome] = field(default_factory=dict)
    first_outcome: Outcome | None = None
    as_itself: set[Split] = field(default_factory=set)
    values: tuple[float, ...] | None = None
    recipe: Recipe | None = field(default=None, compare=False)

    def __repr__(self) -> str:
        return f"Candidate({self.number}, {self.name!r}, {self.status}, values={self.values})"

    @property
    def name(self) -> str:
        """The label of a baseline, `mean` for what is believed, else `optimizer`."""
        if self.label is not None:
            return self.label
        return "mean" if self.is_believed else "optimizer"

    @property
    def genome(self) -> Sequence[float]:
        """The genome of a proposed recipe; a baseline has one only for the optimizer."""
        return self.origin.get("genome", ()) if self.label is None else ()

    @property
    def fitness(self) -> float | None:
        """The value, if there is exactly one; else None."""
        return self.values[0] if self.values is not None and len(self.values) == 1 else None

    @property
    def is_believed(self) -> bool:
        """Whether it is what the strategy believes in, of no generation, and it is told nothing."""
        return bool(self.origin.get(BELIEVED))

    @property
    def sample(self) -> tuple[int | None, int] | None:
        """What determines the documents that it is scored on; None: all search documents."""
        return None if self.fresh is None else (self.generation, self.fresh)

    @property
    def is_estimate(self) -> bool:
        """Whether its values are estimated from a part of the search documents."""
        scores = self.scores("search")
        return scores is not None and bool(scores.expected)

    @property
    def was_estimate(self) -> bool:
        """Whether its first scores were estimates; races of old runs completed some later."""
        return isinstance(self.first_outcome, Scores) and bool(self.first_outcome.expected)

    @property
    def status(self) -> str:
        """`open`, `scored` or `failed`."""
        if "search" not in self.outcomes:
            return "open"
        return "scored" if self.scores("search") else "failed"

    @property
    def failure(self) -> str | None:
        """Why it has no search scores, such as `merge: no finite weights`."""
        outcome = self.outcomes.get("search")
        return f"{outcome.stage}: {outcome.reason}" if isinstance(outcome, Failure) else None

    def scores(self, split: Split) -> Scores | None:
        """Return the scores on a split; None if there are none, or scoring failed."""
        outcome = self.outcomes.get(split)
        return outcome if isinstance(outcome, Scores) else None


class History:
    """The state of a run, updated event by event.

    Attributes:
        candidates: all candidates, by number.
        finished: those with an outcome on the search documents, in the order of the outcomes.
        winner: the candidate that was chosen on the validation documents.
        bases: the base with its outcome on the test documents, if it is none of the parents.
        lacks_base: whether the base is to be tested, but has no outcome yet.
        tested: the merges that the test documents measured as winners, or as members of a front,
            in the order of the outcomes.
        front: the candidates that no other one dominates on the validation documents.
        budget: the latest bounds that `resume` has set, by name.
        oom_backoffs: how often the batch size was halved because memory ran out.
        threads: number of CPU threads that score models.
        texts: the event of the texts of the base; None: it has written none.
        preparations: the results of what was done before the proposal of their `candidate`.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.candidates, self.finished = list[Candidate](), list[Candidate]()
        self.bases, self.tested = list[Candidate](), list[Candidate]()
        self.lacks_base = False
        self.winner: Candidate | None = None
        self.front, self.preparations = list[Candidate](), list[Event]()
        self.budget, self.oom_backoffs = dict[str, Any](), 0
        self.threads: int | None = None
        self.texts: Event | None = None
        self._open = dict[int, Candidate]()
        self._by_digest: dict[str, list[Candidate]] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Update the state by the next event of a journal, whose lines are checked when read."""
        match event["event"]:
            case "ask":
                fields = {name: event[name] for name in _ASKED if name in event}
                candidate = Candidate(len(self.candidates), digest=event["digest"], **fields)
                self.candidates.append(candidate)
                self._open[candidate.number] = candidate
                self._by_digest.setdefault(candidate.digest, []).append(candidate)
            case "tell" | "complete" as kind:
                candidate = self.candidates[event["candidate"]]
                same = self.candidates[event["same_as"]] if "same_as" in event else None
                outcome = (
                    outcome_of(event)
                    if same is None
                    else same.first_outcome or same.outcomes["search"]
                )
                candidate.outcomes["search"], candidate.values = outcome, _values(event)
                if kind == "tell":
                    candidate.first_outcome = outcome
                    self.finished.append(candidate)
                    self._open.pop(candidate.number, None)
            case "score":
                candidate = self.candidates[event["candidate"]]
                candidate.outcomes[event["split"]] = outcome_of(event)
                wins = candidate in (self.winner, *self.front)
                if event["split"] == "test" and candidate.label is None and wins:
                    self.tested.append(candidate)
                if event.get("as_itself"):
                    candidate.as_itself.add(event["split"])
            case "base":
                base = Candidate(BASE, event["label"], event["digest"])
                self.bases, base.outcomes["test"] = [base], outcome_of(event)
                self.lacks_base = False
            case "winner":
                self.winner = self.candidates[event["candidate"]]
                self.front = [self.candidates[n] for n in event.get("front", ())]
                self.lacks_base = "base" in event and not self.bases
            case "budget":
                self.budget.update({k: v for k, v in event.items() if k != "event"})
            case kind if kind == PREPARED:
                self.preparations.append(event)
            case "texts":
                self.texts = event
            case "memory":
                self.oom_backoffs = int(event["halvings"])
            case "threads":
                self.threads = int(event["threads"])

    @property
    def open(self) -> list[Candidate]:
        """The candidates without an outcome on the search documents, by number."""
        return list(self._open.values())

    @property
    def baselines(self) -> list[Candidate]:
        """The candidates that are baselines: the parents and averages of them."""
        return [item for item in self.candidates if item.label is not None]

    def earlier_equals(self, candidate: Candidate) -> Iterator[Candidate]:
        """Return the earlier candidates with the same recipe and documents, by number."""
        equals = self._by_digest[candidate.digest]
        earlier = takewhile(lambda item: item.number < candidate.number, equals)
        return (item for item in earlier if item.sample == candidate.sample)

    def chosen(self, which: str, best: Candidate | None) -> Candidate:
        """Return the candidate that `best`, `knee` or a number means; RunFolderError: none."""
        if which in ("best", "knee"):
            if best is None:
                raise RunFolderError("The run has no scored candidate yet.")
            return best
        by_number = {str(item.number): item for item in self.candidates}
        if which not in by_number:
            raise RunFolderError(
                f"candidate is {shown(which)}; it must be `best`, `knee` or a number below "
                f"{len(self.candidates)}."
            )
        return by_number[which]


def _values(event: Event) -> tuple[float, ...] | None:
    """Return the values of an event; None if there are none, or one is not finite."""
    values = tuple(map(float, event.get("values") or ()))
    return values if values and all(map(math.isfinite, values)) else None


def outcome_of(event: Event) -> Outcome:
    """Return the outcome in a `tell`, `complete` or `score` event."""
    if "failure" in event:
        return Failure(**event["failure"])
    return Scores.from_dict(event["scores"])


def outcome_fields(outcome: Outcome) -> Event:
    """Return the fields of an event that hold an outcome. Times are left out."""
    if isinstance(outcome, Failure):
        return {"failure": {"stage": outcome.stage, "reason": outcome.reason}}
    plain = outcome.to_dict()
    del plain["seconds"]
    return {"scores": plain}
