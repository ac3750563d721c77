"""Logs a running search to experiment trackers."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

from evomerge.errors import one_line
from evomerge.report.rows import FINAL_SPLITS, candidate_row, search_score
from evomerge.report.trackers.protocol import TrackedRun, Tracker, find_tracker
from evomerge.report.words import storable
from evomerge.run.folder import CONFIG, FROZEN, MANIFEST, STAGES, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.lines import Event
from evomerge.run.logbook import PASSING, Follower
from evomerge.searching.ranking import Ranking, measured

log = logging.getLogger(__name__)

_NOT_IN_FINALS = {"generation", "digest", "status", "failure", "error"}


@contextmanager
def tracked(
    name: str | None, run: RunFolder, ranking: Ranking, say: Callable[[str], None]
) -> Iterator[list[Follower]]:
    """Log a search to a tracker (None: to none) while the block runs it; yield its followers.

    Nothing that the tracker does stops or changes the search: if it fails, `say` is told so.
    """
    if name is None:
        yield []
        return
    tracking = _Tracking(name, run, ranking, say)
    try:
        yield [tracking.observe]
    except BaseException:
        tracking.finish(completed=False)
        raise
    tracking.finish(completed=True)


def tracked_run(run: RunFolder) -> TrackedRun:
    """Return a search as a tracker knows it.

    The id is made of the search file, what was resolved, and the place of the folder, so a copy is
    a run of its own.
    """
    path = run.path.resolve()
    files = [path / CONFIG, path / MANIFEST]
    frozen = b"".join(file.read_bytes() for file in files if file.is_file())
    group = path.parent.name if (path.parent / STAGES).is_file() else None
    return TrackedRun(
        id=hashlib.sha256(frozen + b"\0" + bytes(path)).hexdigest()[:16],
        name=storable(path.name if group is None else f"{group}-{path.name}"),
        group=storable(group),
        config=storable({key: value for key, value in run.config().items() if key != FROZEN}),
    )


class _Tracking:
    """Opens the tracker at the first event, logs each step, and closes it.

    A step is an outcome on the search documents; steps are numbered in the order of the outcomes.
    """

    def __init__(
        self, name: str, run: RunFolder, ranking: Ranking, say: Callable[[str], None]
    ) -> None:
        self._name, self._run, self._ranking, self._say = name, run, ranking, say
        self._objectives = measured(ranking)
        self._tracker: Tracker | None = None
        self._is_broken = False
        self._steps = 0  # that the tracker has
        self._incumbents: list[Candidate] = []
        self._failed = 0

    def observe(self, history: History, event: Event) -> None:
        """Log an event; the first one opens the tracker: then this process locks the run."""
        if event["event"] in PASSING or self._is_broken:
            return
        if self._tracker is None:
            self._attempt(self._open)  # logs this event too
        else:
            self._attempt(partial(self._log, self._tracker, history, event))

    def finish(self, *, completed: bool) -> None:
        """Log the result if the search is completed, and close the tracker."""
        if completed and not self._is_broken:
            self._attempt(self._summarize)
        if self._tracker is not None:
            self._attempt(partial(self._tracker.finish, completed=completed))

    def _open(self) -> Tracker:
        """Open the tracker, and log what it lacks of the journal."""
        tracker = find_tracker(self._name)(tracked_run(self._run), self._fail)
        self._tracker, self._steps = tracker, tracker.logged()
        self._say(f"logging to {self._name}: {tracker.where}")
        history, seconds = History(), self._run.timings.by_candidate()
        for event in self._run.events():
            history.apply(event)
            if event["event"] == "tell":
                event = {**event, "seconds": seconds.get(event["candidate"], {})}
            self._log(tracker, history, event)
        return tracker

    def _log(self, tracker: Tracker, history: History, event: Event) -> None:
        """Log an event if it is a step that the tracker does not have yet."""
        if event["event"] not in ("tell", "complete"):
            return
        candidate = history.candidates[event["candidate"]]
        self._incumbents = self._ranking.incumbents([*self._incumbents, candidate])
        if event["event"] == "complete":
            return
        self._failed += candidate.scores("search") is None
        step = len(history.told) - 1
        if step >= self._steps:
            tracker.log(step, storable(self._metrics(candidate, event.get("seconds", {}))))
            self._steps = step + 1

    def _metrics(self, candidate: Candidate, seconds: dict[str, float]) -> dict[str, float]:
        scores = candidate.scores("search")
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
            found |= {f"search/{item.key}": search_score(scores, item) for item in self._objectives}
        found |= {f"seconds/{phase}": spent for phase, spent in seconds.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _summarize(self) -> None:
        tracker = self._tracker or self._open()
        history = History(self._run.events())
        winner, values = history.winner, dict[str, Any]()
        if winner is not None:
            values = {"winner": winner.number, "winner_name": winner.name}
            for split in FINAL_SPLITS:
                if scores := winner.scores(split):
                    found = {item.key: scores.aggregates[item.key] for item in self._objectives}
                    values |= {f"{split}/{key}": value for key, value in found.items()}
        rows = [
            candidate_row(item, history, self._objectives)
            for item in history.candidates
            if any(split in item.outcomes for split in FINAL_SPLITS)
        ]
        finals = [{key: row[key] for key in row if key not in _NOT_IN_FINALS} for row in rows]
        tracker.summarize(len(history.told) - 1, storable(values), storable(finals))

    def _attempt(self, action: Callable[[], object]) -> None:
        """Do something with the tracker; if it fails, say so and do not log to it any more."""
        try:
            with _isolated():
                action()
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # also SystemExit: the search must go on
            self._fail(one_line(error))

    def _fail(self, reason: str) -> None:
        """Say once that the tracker failed."""
        if self._is_broken:
            return
        self._is_broken = True
        message = (
            f"{self._name} failed ({reason.rstrip('.')}), so nothing more is logged to it; "
            "the search goes on without it."
        )
        if log.hasHandlers():  # else Python itself prints the message, a second time
            log.warning("%s", message)
        self._say(f"warning: {message}")


@contextmanager
def _isolated() -> Iterator[None]:
    """Undo what the code of a tracker changes in this process; only in the main thread.

    What it prints on standard output is dropped, and it cannot ask for input.
    """
    folder, keyboard = Path.cwd(), sys.stdin
    leave, hook = sys.exit, sys.excepthook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.stdin = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.stdin = keyboard
        os.chdir(folder)
        sys.exit, sys.excepthook = leave, hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
