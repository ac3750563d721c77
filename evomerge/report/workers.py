"""What the workers of a running search do, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from evomerge.run.activity import WorkerState

MOST_WORKERS = 10
"""Largest number of workers that are listed one by one."""


def workers_in_words(states: Sequence[WorkerState], now: float) -> tuple[str, list[list[str]]]:
    """Return what workers do, for people: a summary, and a row for each of the busiest.

    Args:
        states: what each worker does.
        now: seconds since 1970.

    Returns:
        the summary, and rows of number, place, what it does and for how long. A row is there for
        each of the `MOST_WORKERS` workers that do the same thing for the longest time.
    """
    counts = Counter(state.state for state in states)
    summary = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    longest = sorted(states, key=lambda state: (state.state == "free", state.since))
    shown = sorted(longest[:MOST_WORKERS], key=lambda state: state.number)
    return summary, [_worker_row(state, now) for state in shown]


def _worker_row(state: WorkerState, now: float) -> list[str]:
    names = ", ".join(map(str, state.candidates))
    several = "s" if len(state.candidates) > 1 else ""
    what = f"candidate{several} {names} on {state.split}" if state.candidates else state.state
    return [str(state.number), state.place or "-", what, f"{max(0.0, now - state.since):.0f} s"]
