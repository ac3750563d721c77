"""The follower that logs a running search to a tracker."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from evomerge.errors import one_line
from evomerge.report.trackers.isolation import isolated
from evomerge.report.trackers.metrics import StepMetrics, final_rows, summary
from evomerge.report.trackers.protocol import TrackedRun, Tracker
from evomerge.report.trackers.registry import find_tracker
from evomerge.report.words import storable
from evomerge.run.folder import CONFIG, STAGES, RunFolder
from evomerge.run.frozen_file import FROZEN
from evomerge.run.history import History
from evomerge.run.lines import Event
from evomerge.run.logbook import PASSING, Follower
from evomerge.searching.ranking import Ranking, measured

log = logging.getLogger(__name__)


@contextmanager
def tracked(
    name: str | None, run: RunFolder, ranking: Ranking, say: Callable[[str], None]
) -> Iterator[list[Follower]]:
    """Log a search to a tracker while the block runs it.

    Nothing that the tracker does stops or changes the search: if it fails, one sentence says so.

    Args:
        name: name of the tracker; None for no tracker.
        run: the run folder.
        ranking: what compares the candidates of the search.
        say: prints a message for people.

    Yields:
        the followers to give to the search.
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

    The id is made of the frozen search file and the place of the run folder. So a run that is
    copied is a run of its own. A search that is deleted and started again with the same search
    file has the id it had; its scores are the same, too.
    """
    path = run.path.resolve()
    frozen = (path / CONFIG).read_bytes()
    group = path.parent.name if (path.parent / STAGES).is_file() else None
    return TrackedRun(
        id=hashlib.sha256(frozen + b"\0" + bytes(path)).hexdigest()[:16],
        name=storable(path.name if group is None else f"{group}-{path.name}"),
        group=storable(group),
        config=storable({key: value for key, value in run.config().items() if key != FROZEN}),
    )


class _Tracking:
    """Opens the tracker at the first event, logs each step, and closes it. See `tracked`."""

    def __init__(
        self,
        name: str,
        run: RunFolder,
        ranking: Ranking,
        say: Callable[[str], None],
    ) -> None:
        self._name, self._run, self._objectives, self._say = name, run, measured(ranking), say
        self._metrics = StepMetrics(ranking)
        self._tracker: Tracker | None = None
        self._steps = 0
        """Number of steps that the tracker has."""
        self._is_broken = False

    def observe(self, history: History, event: Event) -> None:
        """Log an event of the search.

        The first event opens the tracker: then this process holds the lock of the run.
        """
        if event["event"] not in PASSING and not self._is_broken:
            self._attempt(lambda: self._observe(history, event))

    def finish(self, *, completed: bool) -> None:
        """Log the result if the search is completed, and close the tracker."""
        if completed and not self._is_broken:
            self._attempt(self._summarize)
        if self._tracker is not None:
            self._attempt(partial(self._tracker.finish, completed=completed))

    def _observe(self, history: History, event: Event) -> None:
        if self._tracker is None:
            self._open()  # logs this event too
        else:
            self._log(self._tracker, history, event)

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
        metrics = self._metrics.of(history, event)
        step = len(history.told) - 1
        if metrics is not None and step >= self._steps:
            tracker.log(step, storable(metrics))
            self._steps = step + 1

    def _summarize(self) -> None:
        tracker = self._tracker or self._open()
        history = History(self._run.events())
        values = storable(summary(history, self._objectives))
        finals = storable(final_rows(history, self._objectives))
        tracker.summarize(len(history.told) - 1, values, finals)

    def _attempt(self, action: Callable[[], None]) -> None:
        """Do something with the tracker; if it fails, say so and do not log to it any more."""
        try:
            with isolated():
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
