"""Run folders in all states, written without a search, and a browser that shows their pages."""

import json
import shutil
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from search_run import SMALL

from evomerge.run.folder import RunFolder
from evomerge.run.history import outcome_fields
from evomerge.run.journal import Event, Lines
from evomerge.scores import Failure, Outcome, Scores

KEY = "zoo_l2_maths/exact_match"


def scores(right: int, of: int = 24) -> Scores:
    """Return the scores of a model with so many right answers."""
    values = (1.0,) * right + (0.0,) * (of - right)
    return Scores({"zoo_l2_maths": tuple(range(of))}, {KEY: values}, {KEY: right / of})


def asked(number: int, label: str | None = None, genome: Sequence[float] = ()) -> Event:
    """Return the `ask` event of a baseline, or of a genome of the optimizer."""
    event: Event = {"event": "ask", "candidate": number, "digest": f"{number:064x}"}
    if label is not None:
        return event | {"label": label}
    return event | {"generation": 0, "origin": {"genome": list(genome)}}


def told(number: int, outcome: Outcome) -> Event:
    """Return the `tell` event of an outcome."""
    event: Event = {"event": "tell", "candidate": number, **outcome_fields(outcome)}
    if isinstance(outcome, Failure):
        return event
    return event | {"values": [sum(outcome.aggregates.values()) / len(outcome.aggregates)]}


def write_run(
    folder: Path, events: Sequence[Event], torn: bytes = b"", **changes: Mapping[str, Any]
) -> RunFolder:
    """Create a run folder with these events, followed by an incomplete line.

    `changes` are sections of the search file, and of the manifest if they are in `frozen`.
    """
    search = SMALL | changes
    frozen = search.pop("frozen", {})
    run = RunFolder.create(folder, json.dumps(search), {"config": search, **frozen})
    append(run, events, torn)
    return run


def finished(
    folder: Path,
    models: Iterable[tuple[str | None, Outcome | int]],
    finals: Mapping[int, Outcome | int] | None = None,
    winner: int | None = None,
    splits: Sequence[str] = ("test",),
    **changes: Mapping[str, Any],
) -> RunFolder:
    """Create a run of baselines (by label) and genomes (None) with a winner, by default the last.

    A number stands for so many right answers of 24. `finals`: candidate -> its outcome on these
    splits, by default that on the search documents.
    """
    genes = len(changes.get("frozen", {}).get("genes", "g"))
    outcomes = dict(enumerate(scores(it) if isinstance(it, int) else it for _, it in models))
    events = []
    for number, (label, _) in enumerate(models):
        genome = [number / 4, *[0.5] * (genes - 1)]
        events += [asked(number, label, genome), told(number, outcomes[number])]
    last = len(outcomes) - 1 if winner is None else winner
    events.append({"event": "winner", "candidate": last})
    for split, (number, given) in product(splits, (finals or outcomes).items()):
        outcome = outcome_fields(scores(given) if isinstance(given, int) else given)
        events.append({"event": "score", "candidate": number, "split": split, **outcome})
    return write_run(folder, events, **changes)


def append(run: RunFolder, events: Sequence[Event], torn: bytes = b"") -> None:
    """Write events to a run as its writer does, followed by an incomplete line."""
    added = lines_of(events, run.journal_path.read_bytes())
    with run.journal_path.open("ab") as file:
        file.write(b"".join(added) + torn)


def lines_of(events: Sequence[Event], before: bytes = b"") -> list[bytes]:
    """Return the lines of events that follow the complete lines of a journal."""
    lines = Lines()
    for line in before.split(b"\n")[:-1]:
        lines.decode(line)
    return [lines.encode(event) for event in events]


FAILED = Failure("merge", "no <finite> weights")

_FIRST, _SECOND = asked(0, "zoo:language"), asked(1, genome=[0.5, 1.0])

STATES: dict[str, tuple[list[Event], bytes]] = {
    "empty": ([], b""),
    "asked only": ([_FIRST], b""),
    "failed only": ([_FIRST, told(0, FAILED), _SECOND, told(1, FAILED)], b""),
    "being written": ([_FIRST, told(0, scores(3)), _SECOND], b'5d1e9f00 {"event":"tell","cand'),
}
"""Name -> events and incomplete last line of a run without a winner."""

BROWSER = next(filter(None, map(shutil.which, ("chromium", "google-chrome", "chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="there is no Chromium")


def browsed(page: Path) -> subprocess.CompletedProcess[str]:
    """Show a page: what its scripts have made of it is the output, messages are in the errors."""
    words = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom",
        "--allow-file-access-from-files", "--enable-logging=stderr", "--v=0",
        f"--user-data-dir={page.parent / 'profile'}", "--virtual-time-budget=5000", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(words, capture_output=True, text=True, timeout=250)
