"""What a journal says: candidates, their outcomes, the best, the finalists, the winner.

Computed from the events alone, so a reader, a resumed search and a report see the same run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from evomerge.errors import RunFolderError
from evomerge.run.journal import Event
from evomerge.scores import Failure, Outcome, Scores, Split

OPTIMIZER = "optimizer"


@dataclass
class Candidate:
    """One numbered trial.

    Attributes:
        number: 0, 1, 2, ... in the order they were asked.
        origin: `optimizer`, or the label of a landmark (a parent's reference, `uniform`).
        digest: digest of its recipe.
        trial: the optimizer's own number, or None where the optimizer never saw it.
        genome: the genome, or None where the space cannot express the recipe.
        generation: the optimizer's generation it belongs to.
        against: number of the leader it was compared with while it was scored, if any.
        known: how many candidates had been told when it was asked.
        outcomes: what came out, by split.
        fitness: what the optimizer was told (search split), None while open or if failed; where
            subsets of documents rotate, the mean over those it was scored on.
        subsets: scores by rotating subset.
    """

    number: int
    origin: str
    digest: str
    trial: int | None = None
    genome: tuple[float, ...] | None = None
    generation: int = 0
    against: int | None = None
    known: int = 0
    outcomes: dict[Split, Outcome] = field(default_factory=dict)
    fitness: float | None = None
    subsets: dict[int, Scores] = field(default_factory=dict)
    _told: list[float] = field(default_factory=list)

    def score_again(self, subset: int, scores: Scores, fitness: float) -> None:
        """Take in scores on another rotating subset."""
        self.subsets[subset] = scores
        self._told.append(fitness)
        first = [] if self.fitness is None or len(self._told) > 1 else [self.fitness]
        self._told[:0] = first
        self.fitness = sum(self._told) / len(self._told)

    @property
    def is_estimate(self) -> bool:
        """Whether its fitness was estimated from some of the search documents."""
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
        told: what came out of the candidates when it was told, in that order.
        leader: the best so far of those scored on all search documents, the first told among
            equals.
        winner: what the validation documents chose, once they did.
        budget: the latest bounds set by `resume`, by name.
    """

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self.candidates: list[Candidate] = []
        self.told: list[Outcome] = []
        self.leader: Candidate | None = None
        self.winner: Candidate | None = None
        self.budget: dict[str, Any] = {}
        for event in events:
            self.apply(event)

    def apply(self, event: Event) -> None:
        """Take in the next event."""
        match event.get("event"):
            case "ask":
                genome = event.get("genome")
                self.candidates.append(
                    Candidate(
                        number=event["candidate"],
                        origin=event["origin"],
                        digest=event["digest"],
                        trial=event.get("trial"),
                        genome=None if genome is None else tuple(genome),
                        generation=event.get("generation", 0),
                        against=event.get("against"),
                        known=len(self.told),
                    )
                )
            case "tell":
                candidate = self.candidates[event["candidate"]]
                if "same_as" in event:
                    known = self.candidates[event["same_as"]]
                    candidate.outcomes["search"] = known.outcomes["search"]
                else:
                    candidate.outcomes["search"] = outcome_of(event)
                candidate.fitness = event.get("fitness")
                self.told.append(candidate.outcomes["search"])
                self.take_lead(candidate)
            case "complete":
                candidate = self.candidates[event["candidate"]]
                candidate.outcomes["search"] = outcome_of(event)
                candidate.fitness = event.get("fitness")
            case "rescore":
                candidate = self.candidates[event["candidate"]]
                scores = Scores.from_dict(event["scores"])
                candidate.score_again(event["subset"], scores, event["fitness"])
                self.leader = next(item for item in self.ranked() if not item.is_estimate)
            case "score":
                candidate = self.candidates[event["candidate"]]
                candidate.outcomes[event["split"]] = outcome_of(event)
            case "winner":
                self.winner = self.candidates[event["candidate"]]
            case "budget":
                self.budget.update({k: v for k, v in event.items() if k != "event"})

    def take_lead(self, candidate: Candidate) -> None:
        """Make a candidate the leader if it is better and no estimate."""
        if candidate.fitness is None or candidate.is_estimate:
            return
        if self.leader is None or candidate.fitness > (self.leader.fitness or 0.0):
            self.leader = candidate

    @property
    def open(self) -> list[Candidate]:
        """Candidates asked and not told yet."""
        return [item for item in self.candidates if item.status == "open"]

    @property
    def landmarks(self) -> list[Candidate]:
        """Parents and the uniform merge."""
        return [item for item in self.candidates if item.origin != OPTIMIZER]

    def ranked(self) -> list[Candidate]:
        """Scored candidates, best fitness first, the earlier first among equals."""
        scored = [item for item in self.candidates if item.fitness is not None]
        return sorted(scored, key=lambda item: (-(item.fitness or 0.0), item.number))

    def best(self) -> Candidate | None:
        """Return the winner if it was chosen, else the leader."""
        return self.winner or self.leader

    def chosen(self, which: str, source: Path) -> Candidate:
        """Return the candidate that a person names.

        Args:
            which: `best` or a number.
            source: the run folder, for the message.

        Raises:
            RunFolderError: there is no such candidate, or none is scored yet.
        """
        if which == "best":
            best = self.best()
            if best is None:
                raise RunFolderError(f"{source} has no scored candidate yet.")
            return best
        if not which.isdigit() or int(which) >= len(self.candidates):
            raise RunFolderError(
                f"--candidate is {which!r}; it must be `best` or a number from 0 to "
                f"{len(self.candidates) - 1}."
            )
        return self.candidates[int(which)]

    def finalists(self, count: int) -> list[Candidate]:
        """Return the `count` best candidates of distinct recipes, best first."""
        chosen: dict[str, Candidate] = {}
        for item in self.ranked():
            if len(chosen) == count:
                break
            chosen.setdefault(item.digest, item)
        return list(chosen.values())


def outcome_of(event: Event) -> Outcome:
    """Return the outcome a `tell` or `score` event carries."""
    if "failure" in event:
        return Failure(**event["failure"])
    return Scores.from_dict(event["scores"])


def outcome_fields(outcome: Outcome) -> Event:
    """Return the part of a `tell` or `score` event that carries an outcome, without times."""
    if isinstance(outcome, Failure):
        return {"failure": {"stage": outcome.stage, "reason": outcome.reason}}
    plain = outcome.to_dict()
    del plain["seconds"]
    return {"scores": plain}
