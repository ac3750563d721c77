"""The logbook of a running search: writes events and times, and calls followers."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol, TypeAlias

from evomerge.errors import one_line
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.journal import Event, Journal, Spent

log = logging.getLogger(__name__)

Follower: TypeAlias = Callable[[History, Event], None]
"""A display or a tracker: a function that is called with every event after it is in the journal.

Events with an outcome also have the fields `seconds` and `cpu_seconds`, by phase, which are not in
the journal. Nor is another event that it is called with: `finals` comes before final scores, with
`purpose` (`validation` or `test`) and `total` (candidates that get such a score now).
"""


class Timed(Protocol):
    """What came out of a job, with the time and memory that it took."""

    @property
    def seconds(self) -> Mapping[str, float]:
        """Wall-clock seconds by phase."""

    @property
    def cpu_seconds(self) -> Mapping[str, float]:
        """CPU seconds by phase."""

    @property
    def peak(self) -> Mapping[str, int]:
        """Largest memory of the process so far, in bytes."""


class Logbook:
    """Writes the events of one session of a run, and calls its followers with each.

    `run` is the run folder, `history` the state after the latest event; `events` are those of
    earlier sessions.
    """

    def __init__(self, run: RunFolder, journal: Journal, followers: Sequence[Follower]) -> None:
        self.run, self.history = run, History(journal.events)
        self.events: Sequence[Event] = journal.events
        self._journal, self._followers, self._timings = journal, list(followers), run.timings
        self._stop_file = run.stop_file
        self._session, self._began = time.time(), time.monotonic()
        self._hours_before = self._timings.hours()
        self._proposing = Spent(0.0, 0.0)
        """Time of the strategy that is not in the notes yet."""
        self._note({})  # `status` shows no speed of an earlier session any more

    @property
    def hours(self) -> float:
        """Working time so far in hours, over all sessions of the run."""
        return self._hours_before + (time.monotonic() - self._began) / 3600

    @property
    def is_stopping(self) -> bool:
        """Whether a person has asked, by `evomerge stop`, that no further candidate begins."""
        return os.path.exists(self._stop_file)  # noqa: PTH110 - often asked for

    def write(self, event: Event, outcome: Timed | None = None) -> None:
        """Write an event, update the history, note the times of its outcome, call the followers."""
        self._journal.append(event)
        self.history.apply(event)
        if outcome is not None:
            spent = {"seconds": outcome.seconds, "cpu_seconds": outcome.cpu_seconds}
            times = {k: {p: round(s, 4) for p, s in item.items()} for k, item in spent.items()}
            peak = {"peak": dict(outcome.peak)} if outcome.peak else {}
            self._note({k: event[k] for k in ("event", "candidate")} | times | peak)
            event = {**event, **times}
        self._call_followers(event)

    @contextmanager
    def proposing(self) -> Iterator[None]:
        """Count the time of a block as the strategy's; it is noted with the next outcome."""
        before, began, cpu_began = self._proposing, time.monotonic(), time.process_time()
        try:
            yield
        finally:  # what a block inside of this one has counted is in these times
            self._proposing = Spent(
                before.seconds + time.monotonic() - began,
                before.cpu_seconds + time.process_time() - cpu_began,
            )

    def note_threads(self, threads: int) -> None:
        """Write the number of CPU threads that score models to the journal, if it is new."""
        if threads != self.history.threads:
            self.write({"event": "threads", "threads": threads})

    def note_finals(self, purpose: str, total: int) -> None:
        """Tell followers how many candidates get a final score now; see `Follower`."""
        if total:
            self._call_followers({"event": "finals", "purpose": purpose, "total": total})

    def _note(self, entry: Mapping[str, Any]) -> None:
        elapsed = round(time.monotonic() - self._began, 3)
        note: dict[str, Any] = {"session": self._session, "elapsed": elapsed, **entry}
        # Followers do not get it with an outcome: it is not the time of one candidate.
        if self._proposing.seconds:
            for key in ("seconds", "cpu_seconds"):
                seconds = round(getattr(self._proposing, key), 4)
                note[key] = {**note.get(key, {}), "propose": seconds}
            self._proposing = Spent(0.0, 0.0)
        self._timings.note(note)

    def _call_followers(self, event: Event) -> None:
        for follower in list(self._followers):
            try:
                follower(self.history, event)
            except (Exception, SystemExit) as error:  # neither must end the search
                self._followers.remove(follower)
                name = getattr(follower, "__qualname__", type(follower).__name__)
                why = f"{type(error).__name__}: {one_line(error)}"
                text = "%s failed (%s) and is not called again; the search goes on."
                log.warning(text, name, why)
