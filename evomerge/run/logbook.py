"""What a running search writes down: events, the history they make, and what they cost."""

from __future__ import annotations

import time
from collections.abc import Callable

from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event, Journal
from evomerge.scores import Failure, Outcome


class Logbook:
    """Takes in the events of one session of a run.

    Args:
        run: the run's folder.
        journal: its journal, open for writing.
        observe: called after every event, with the history and the event.

    Attributes:
        history: what the journal says, always up to date.
    """

    def __init__(
        self, run: RunFolder, journal: Journal, observe: Callable[[History, Event], None]
    ) -> None:
        self.history = History(journal.events)
        self._run, self._journal, self._observe = run, journal, observe
        self._session, self._began = time.time(), time.monotonic()
        self._hours_before = run.hours()

    @property
    def hours(self) -> float:
        """Working time so far, over all sessions of the run."""
        return self._hours_before + (time.monotonic() - self._began) / 3600

    def write(self, event: Event, outcome: Outcome | None = None) -> None:
        """Journal an event, take it into the history, note what it cost, tell the observer."""
        self._journal.append(event)
        self.history.apply(event)
        if outcome is not None:
            seconds = {} if isinstance(outcome, Failure) else dict(outcome.seconds)
            elapsed = round(time.monotonic() - self._began, 3)
            place = {"session": self._session, "elapsed": elapsed}
            self._run.note_timing(place | {"candidate": event["candidate"], "seconds": seconds})
        self._observe(self.history, event)
