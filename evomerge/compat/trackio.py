"""What is private in Trackio, from version 0.40 on."""

from __future__ import annotations

from typing import Any

from evomerge.compat import need


def steps_of(run: Any) -> int:
    """Return how many steps a run has of earlier sessions."""
    return int(need("trackio", run, "_next_step"))
