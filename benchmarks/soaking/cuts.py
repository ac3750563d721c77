"""A journal that ends at any byte, as after a loss of power."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import yaml
from search_run import evomerge

from soaking.part import Part
from soaking.searches import WEIGHTS

RESUMED = 20
"""One of so many cuts is resumed to the end of the search; the others are opened."""


def soak(part: Part, count: int, folder: Path) -> None:
    """Cut a journal at `count` bytes.

    Args:
        part: the result, which is added to.
        count: number of cuts.
        folder: where the runs are.
    """
    whole = folder / "whole"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "search.yaml").write_text(yaml.safe_dump(WEIGHTS))
    evomerge("search", folder / "search.yaml", "--run", whole)
    journal = (whole / "journal.jsonl").read_bytes()
    generator = random.Random(0)
    places = generator.sample(range(len(journal)), min(count, len(journal)))
    for number, place in enumerate(places):
        fault = _opened(journal, place, folder / "cut.jsonl")
        resumed = number % RESUMED == 0
        if resumed:
            fault = fault or _resumed(whole, journal, place, folder / "resumed")
            part.details["resumed to the end"] = part.details.get("resumed to the end", 0) + 1
        part.count(fault)
        if resumed:
            print(f"cuts: {part.tried} {fault or ''}", flush=True)


def _opened(journal: bytes, place: int, path: Path) -> str | None:
    """Check that a writer finds all lines before the cut, and leaves only the torn one out."""
    from evomerge.errors import EvomergeError
    from evomerge.run.journal import Journal

    path.write_bytes(journal[:place])
    whole = journal[: journal.rfind(b"\n", 0, place) + 1]
    try:
        with Journal(path) as opened:
            events = len(opened.events)
    except EvomergeError as error:
        return f"cut at byte {place}: {error}"
    lines = max(1, whole.count(b"\n"))  # a new journal has its header
    if events != lines:
        return f"cut at byte {place}: {events} events of {lines} lines"
    kept = path.read_bytes()
    return None if kept.startswith(whole) else f"cut at byte {place}: lines are lost"


def _resumed(whole: Path, journal: bytes, place: int, run: Path) -> str | None:
    """Resume the cut search and compare it with the whole one."""
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    for name in ("search.yaml", "timings.jsonl"):
        shutil.copy(whole / name, run / name)
    (run / "journal.jsonl").write_bytes(journal[:place])
    try:
        evomerge("resume", run)
    except AssertionError as error:
        return f"cut at byte {place}: {str(error)[-200:]}"
    for name in ("journal.jsonl", "best.yaml"):
        if (run / name).read_bytes() != (whole / name).read_bytes():
            return f"cut at byte {place}: {name} differs"
    return None
