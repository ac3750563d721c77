"""Experiment trackers that a search is logged to: which there are, what one does, what it gets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol, TypeAlias

from evomerge.errors import InputError
from evomerge.registry import Registry

PROJECT = "evomerge"
"""The project of all searches."""

Row: TypeAlias = Mapping[str, Any]
"""A row of a table: column -> number, text or None."""


@dataclass(frozen=True)
class TrackedRun:
    """A search as a tracker knows it.

    Attributes:
        id: 16 hexadecimal digits that stay the same when the search is resumed.
        name: name of the run folder; of a stage, that of the whole search before it.
        group: name of a search in stages; None for any other search.
        config: the search file.
    """

    id: str
    name: str
    group: str | None
    config: Mapping[str, Any]


class Tracker(Protocol):
    """A run of a tracker that is open for writing.

    It may raise anything: then it is not used any more, and the search goes on.

    Attributes:
        where: one sentence without its first capital and its full stop, which says where people
            find what is logged.
    """

    where: str

    def logged(self) -> int:
        """Return how many steps the tracker has of earlier sessions: those from 0 up to it."""
        ...

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Log the metrics of a step. Steps come in order, each once."""
        ...

    def summarize(self, step: int, values: Mapping[str, Any], finals: Sequence[Row]) -> None:
        """Log the result of the search at the last step.

        `values` are single values by name; `finals` has a row for each model that was scored on
        validation or test documents.
        """
        ...

    def finish(self, *, completed: bool) -> None:
        """Write what is left and close the run; `completed`: the search came to its end."""
        ...


OpenTracker: TypeAlias = Callable[[TrackedRun, Callable[[str], None]], Tracker]
"""Opens a run of a tracker, or continues the one with the same id.

Its second argument is a function for the message of a failure that the tracker does not raise, for
example because it happens in a thread.
"""

TRACKERS: Registry[OpenTracker] = Registry(
    kind="tracker",
    group="evomerge.trackers",
    builtin={
        "trackio": "evomerge.report.trackers.trackio:TrackioRun",
        "wandb": "evomerge.report.trackers.wandb:WandbRun",
    },
    error=InputError,
)
"""Each of evomerge's own has the name of its package, and of the extra that installs it."""


def find_tracker(name: str) -> OpenTracker:
    """Return what opens a run of a tracker, without importing it; InputError: it is missing."""
    found = TRACKERS.get(name)
    if name in TRACKERS.builtin:
        spec = find_spec(name)
        # The folder `wandb` that wandb writes into is found as a package without a file.
        if spec is None or spec.origin is None:
            raise InputError(
                f"--track is {name!r}, but {name} is not installed; install it with "
                f"`pip install 'evomerge[{name}]'`."
            )
    return found
