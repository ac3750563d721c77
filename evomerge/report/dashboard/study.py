"""A run as a study of Optuna: what Optuna's journal says of the study and of its trials."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TypeAlias

from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.study import StudyDirection
from optuna.trial import TrialState

from evomerge.config.frozen import frozen_objectives
from evomerge.config.schema import Frozen, GeneRange, SearchConfig, parse
from evomerge.report.rows import candidate_row
from evomerge.report.texts import storable
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Reader

Fields: TypeAlias = dict[str, Any]
"""What one operation of Optuna's journal sets, as plain JSON values."""

_OF_CANDIDATES = ("ask", "tell", "complete", "score", "winner")
_NOT_ATTRIBUTES = ("candidate", "fitness")  # Optuna's own number and value


class Study:
    """A run that is followed while it is being written.

    Args:
        name: name of the study.
        run: the run folder.

    Attributes:
        history: the state of the run at the last `update`.
    """

    def __init__(self, name: str, run: RunFolder) -> None:
        config = parse(run.config(), str(run.path / CONFIG))
        self.name, self.history = name, History()
        self._config, self._objectives = config, frozen_objectives(config)
        self._reader, self._timings = Reader(run.journal_path), run.timings
        self._distributions: dict[str, str] = {}
        self.update()

    def update(self) -> set[int]:
        """Read the new events of the journal, and return the numbers of candidates in them.

        Raises:
            RunFolderError: the journal is missing or damaged.
        """
        events = self._reader.new_events()
        for event in events:
            self.history.apply(event)
        return {item["candidate"] for item in events if item.get("event") in _OF_CANDIDATES}

    @property
    def directions(self) -> list[StudyDirection]:
        """One direction for each value of a trial. Higher is better everywhere."""
        return [StudyDirection.MAXIMIZE] * len(self.value_names)

    @property
    def value_names(self) -> list[str]:
        """Name of each value of a trial."""
        pareto = self._config.mode == "pareto"
        return [item.key for item in self._objectives] if pareto else ["fitness"]

    @property
    def winner(self) -> int | None:
        """Number of the winner; None before it is chosen."""
        return None if self.history.winner is None else self.history.winner.number

    def is_finished(self, number: int) -> bool:
        """Return whether a candidate has an outcome on the search documents."""
        return self.history.candidates[number].status != "open"

    def trials(self, numbers: Sequence[int]) -> list[Fields]:
        """Return new trials with all that is known of these candidates.

        An open candidate is shown as begun when the last line of `timings.jsonl` was written: at
        the end of the candidate before it, or at the start of the session.
        """
        spans, latest = self._timings.spans(), self._timings.latest()
        if not self._distributions:
            found = _distributions(self._config, self.history)
            self._distributions = {name: distribution_to_json(d) for name, d in found.items()}
        return [self._trial(self.history.candidates[n], spans.get(n), latest) for n in numbers]

    def _trial(
        self, candidate: Candidate, span: tuple[float, float] | None, latest: float | None
    ) -> Fields:
        genome = candidate.origin.get("genome", ())
        is_open = candidate.status == "open"
        start, end = (latest, None) if is_open else span or (None, None)
        return {
            "datetime_start": _time(start),
            **({} if end is None else {"datetime_complete": _time(end)}),
            "distributions": self._distributions if genome else {},
            "params": dict(zip(self._distributions, genome, strict=True)) if genome else {},
            "user_attrs": self.attributes(candidate.number),
            **self._state(candidate),
        }

    def ends(self, numbers: Sequence[int]) -> list[Fields]:
        """Return state, values and end of candidates that have got their outcome.

        Where `timings.jsonl` does not have the end, it is now: Optuna wants a time.
        """
        spans, now = self._timings.spans(), datetime.now(UTC).timestamp()
        return [
            {
                "datetime_complete": _time(spans[n][1] if n in spans else now),
                **self._state(self.history.candidates[n]),
            }
            for n in numbers
        ]

    def _state(self, candidate: Candidate) -> Fields:
        values = candidate.values
        if candidate.status == "open":
            state = TrialState.RUNNING
        else:
            state = TrialState.FAIL if values is None else TrialState.COMPLETE
        return {"state": int(state), "values": None if values is None else list(values)}

    def attributes(self, number: int) -> dict[str, Any]:
        """Return the user attributes of a trial: a row of `evomerge results` without empty cells.

        Further ones are `estimated` (the value is estimated from a part of the search documents),
        and `failure` also if the value is not finite.
        """
        candidate = self.history.candidates[number]
        row = candidate_row(candidate, self.history, self._objectives)
        row["estimated"] = candidate.is_estimate
        if candidate.status == "scored" and candidate.values is None:
            row["failure"] = "the value is not finite"
        return {
            name: value if not isinstance(value, float) or math.isfinite(value) else str(value)
            for name, value in row.items()
            if value is not None and name not in _NOT_ATTRIBUTES
        }


def _time(seconds: float | None) -> str | None:
    """Return a Unix time as Optuna's journal has it."""
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat()


def _distributions(config: SearchConfig, history: History) -> Mapping[str, BaseDistribution]:
    """Return the distribution of each gene, in the order of the genome.

    Runs of earlier versions do not have the ranges. There, each gene is a real number between the
    smallest and the largest value that it had when the run was opened.
    """
    frozen = config.frozen or Frozen()
    if frozen.gene_ranges:
        ranges = {name: item for item in frozen.gene_ranges for name in item.genes}
        return {name: _distribution(ranges[name]) for name in frozen.genes}
    genomes = [item.origin["genome"] for item in history.candidates if "genome" in item.origin]
    seen = list(zip(*genomes, strict=True))
    names = frozen.genes or [f"gene {number}" for number in range(len(seen))]
    return {
        name: FloatDistribution(min(values), max(values))
        for name, values in zip(names, seen or [(0.0,)] * len(names), strict=True)
    }


def _distribution(gene: GeneRange) -> BaseDistribution:
    match gene.kind:
        case "real":
            return FloatDistribution(gene.low, gene.high)
        case "choice":
            return CategoricalDistribution(storable(gene.choices) or range(int(gene.high) + 1))
        case _:
            return IntDistribution(int(gene.low), int(gene.high))
