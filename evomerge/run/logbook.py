"""The logbook of a running search: writes events and times, and calls followers."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeAlias

from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event, Journal
from evomerge.scores import Failure, Outcome

log = logging.getLogger(__name__)

Follower: TypeAlias = Callable[[History, Event], None]
"""A function that is called with every event after it is in the journal: a display, a tracker."""


class Logbook:
    """Writes the events of one session of a run.

    Args:
        run: the run folder.
        journal: its journal, open for writing.
        followers: functions that are called with every event. A follower that raises is not called
            again, and the search goes on.

    Attributes:
        history: the state of the run after the latest event.
    """

    def __init__(self, run: RunFolder, journal: Journal, followers: Sequence[Follower]) -> None:
        self.history = History(journal.events)
        self._run, self._journal, self._followers = run, journal, list(followers)
        self._session, self._began = time.time(), time.monotonic()
        self._hours_before = run.hours()

    @property
    def events(self) -> Sequence[Event]:
        """All events of the journal."""
        return self._journal.events

    @property
    def hours(self) -> float:
        """Working time so far in hours, over all sessions of the run."""
        return self._hours_before + (time.monotonic() - self._began) / 3600

    def write(self, event: Event, outcome: Outcome | None = None) -> None:
        """Write an event to the journal, update the history, note times, call the followers.

        Args:
            event: the event.
            outcome: the outcome in the event, whose times are noted in `timings.jsonl`.
        """
        self._journal.append(event)
        self.history.apply(event)
        if outcome is not None:
            seconds = {} if isinstance(outcome, Failure) else dict(outcome.seconds)
            elapsed = round(time.monotonic() - self._began, 3)
            place = {"session": self._session, "elapsed": elapsed}
            self._run.note_timing(place | {"candidate": event["candidate"], "seconds": seconds})
        for follower in list(self._followers):
            try:
                follower(self.history, event)
            except Exception as error:
                self._followers.remove(follower)
                log.warning(
                    "%s failed (%s: %s) and is not called again; the search goes on.",
                    getattr(follower, "__qualname__", type(follower).__name__),
                    type(error).__name__,
                    error,
                )
