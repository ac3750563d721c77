"""The trackers by name."""

from __future__ import annotations

from importlib.util import find_spec

from evomerge.errors import InputError
from evomerge.registry import Registry
from evomerge.report.trackers.protocol import OpenTracker

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
    """Return what opens a run of a tracker. The tracker's package is not imported.

    Raises:
        InputError: there is no such tracker, or it is not installed.
    """
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
