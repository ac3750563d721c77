"""`evomerge status --watch`: the progress of a search, redrawn until it ends."""

from __future__ import annotations

import time
from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.live import Live

from evomerge.cli.terminal import (
    WORKER_HEADERS,
    make_table,
    out,
    print_progress,
    print_table,
    progress_in_words,
    text_of,
)
from evomerge.report.progress import progress
from evomerge.run.folder import RunFolder

_PAUSE = 2.0
_PATIENCE = 10.0  # seconds in which a search that has just been started takes its lock


def watch_run(run: RunFolder) -> None:
    """Show the progress until the search ends: redrawn on a terminal, its changes in a pipe.

    A search that has just been started, without a candidate yet, is waited for.
    """
    values = progress(run)
    end = time.monotonic() + _PATIENCE
    while _has_just_begun(values) and time.monotonic() < end:
        time.sleep(0.2)
        values = progress(run)
    if out.is_terminal:
        with Live(_panel(values), console=out, auto_refresh=False) as live:
            while values["state"] == "running":
                time.sleep(_PAUSE)
                values = progress(run)
                live.update(_panel(values), refresh=True)
        return
    print_progress(values)
    while values["state"] == "running":
        time.sleep(_PAUSE)
        newer = progress(run)
        keys = ("state", "candidates", "scored", "failed", "best", "winner", "phase")
        changed = {key: newer.get(key) for key in keys if newer.get(key) != values.get(key)}
        if changed:
            print_table(("what", "value"), [(key, text_of(item)) for key, item in changed.items()])
        values = newer


def _has_just_begun(values: Mapping[str, object]) -> bool:
    return values["state"] == "stopped" and values["candidates"] == 0


def _panel(values: dict[str, object]) -> RenderableType:
    shown, rows = progress_in_words(values)
    what = make_table(("what", "value"), [(name, text_of(item)) for name, item in shown.items()])
    return Group(what, "", make_table(WORKER_HEADERS, rows)) if rows else what
