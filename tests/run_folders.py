"""Run folders written by hand: every state of a run without a search."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from search_run import SMALL

from evomerge.run.folder import RunFolder
from evomerge.run.history import outcome_fields
from evomerge.run.journal import Event, encode
from evomerge.scores import Failure, Outcome, Scores

KEY = "zoo_l2_maths/exact_match"


def scores(right: int, of: int = 24) -> Scores:
    """Scores of a model that answers so many documents rightly."""
    values = (1.0,) * right + (0.0,) * (of - right)
    return Scores({"zoo_l2_maths": tuple(range(of))}, {KEY: values}, {KEY: right / of})


def asked(number: int, label: str | None = None, genome: Sequence[float] = ()) -> Event:
    """An `ask` of a baseline, or of what the optimizer proposed."""
    event: Event = {"event": "ask", "candidate": number, "digest": f"{number:064x}"}
    if label is not None:
        return event | {"label": label}
    return event | {"generation": 0, "origin": {"genome": list(genome)}}


def told(number: int, outcome: Outcome) -> Event:
    """A `tell` of an outcome."""
    event: Event = {"event": "tell", "candidate": number, **outcome_fields(outcome)}
    if isinstance(outcome, Failure):
        return event
    return event | {"values": [sum(outcome.aggregates.values()) / len(outcome.aggregates)]}


def write_run(
    folder: Path, events: Sequence[Event], torn: bytes = b"", **changes: Mapping[str, Any]
) -> RunFolder:
    """Create a run folder with these events, and with a half-written line behind them."""
    run = RunFolder.create(folder, SMALL | changes)
    with run.journal_path.open("ab") as file:
        file.write(b"".join(map(encode, events)) + torn)
    return run


FAILED = Failure("merge", "no <finite> weights")

STATES: dict[str, tuple[list[Event], bytes]] = {
    "empty": ([], b""),
    "asked only": ([asked(0, "zoo:language")], b""),
    "failed only": (
        [
            *(asked(0, "zoo:language"), told(0, FAILED)),
            *(asked(1, genome=[0.5, 1.0]), told(1, FAILED)),
        ],
        b"",
    ),
    "being written": (
        [asked(0, "zoo:language"), told(0, scores(3)), asked(1, genome=[0.5, 1.0])],
        b'5d1e9f00 {"event":"tell","cand',
    ),
}
"""Runs that have no winner, and no candidate that beats the parents."""
