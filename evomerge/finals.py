"""The end of a search: the best are scored on documents that it never saw."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.errors import SearchError
from evomerge.execute.protocol import Executor
from evomerge.jobs import Jobs
from evomerge.run.history import Candidate, outcome_fields
from evomerge.run.journal import Event
from evomerge.run.logbook import Logbook
from evomerge.scores import Failure, Objective, Split, fitness


@dataclass(frozen=True)
class Finals:
    """Chooses the winner among the best candidates and the landmarks, and tests it.

    Attributes:
        logbook: what the search has written; takes in what is scored here.
        jobs: makes the jobs.
        executor: runs them; nothing is open in it.
        objectives: what candidates are compared on.
        count: how many of the best take part.
    """

    logbook: Logbook
    jobs: Jobs
    executor: Executor
    objectives: Sequence[Objective]
    count: int

    def winner(self) -> Candidate:
        """Return the best on the validation documents.

        Parents and the uniform merge take part: a search that does not beat them says so.

        Raises:
            SearchError: no candidate could be scored.
        """
        wanted = [*self.finalists(), *self.logbook.history.landmarks]
        contenders = list({item.number: item for item in wanted}.values())
        self.score(contenders, "validation")
        return max(contenders, key=lambda item: (self.value(item), -item.number))

    def finalists(self) -> list[Candidate]:
        """Return the best on the search documents.

        None rests on an estimate: whoever stands among the best by one is scored on all search
        documents, until nobody does.

        Raises:
            SearchError: no candidate could be scored.
        """
        history = self.logbook.history
        finalists = history.finalists(self.count)
        while estimated := [item for item in finalists if item.is_estimate]:
            self.complete(estimated[0])
            finalists = history.finalists(self.count)
        if not finalists:
            outcomes = [item.outcomes.get("search") for item in history.candidates]
            reasons = [item.reason for item in outcomes if isinstance(item, Failure)]
            raise SearchError(
                f"None of the {len(outcomes)} candidates could be scored; the last failed with: "
                f"{reasons[-1] if reasons else 'nothing, for none was asked'}"
            )
        return finalists

    def test(self, winner: Candidate) -> None:
        """Score the winner and the landmarks on the test documents."""
        self.score([winner, *self.logbook.history.landmarks], "test")

    def score(self, candidates: Sequence[Candidate], split: Split) -> None:
        """Score candidates on a split, each once."""
        for candidate in candidates:
            if split not in candidate.outcomes:
                self.executor.submit(self.jobs.unseen(candidate, split))
                outcome = self.executor.next()[1]
                event: Event = {"event": "score", "candidate": candidate.number, "split": split}
                self.logbook.write(event | outcome_fields(outcome), outcome)

    def complete(self, candidate: Candidate) -> None:
        """Score a candidate of estimated fitness on all search documents."""
        self.executor.submit(self.jobs.whole(candidate))
        outcome = self.executor.next()[1]
        event: Event = {"event": "complete", "candidate": candidate.number}
        if not isinstance(outcome, Failure):
            event["fitness"] = fitness(self.objectives, outcome)
        self.logbook.write(event | outcome_fields(outcome), outcome)

    def value(self, candidate: Candidate) -> float:
        """Return a candidate's fitness on the validation documents, -inf without scores."""
        scores = candidate.scores("validation")
        value = fitness(self.objectives, scores) if scores else math.nan
        return value if math.isfinite(value) else -math.inf
