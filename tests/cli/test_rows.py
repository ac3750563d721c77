"""The rows that a terminal shows."""

import csv
from typing import Any

import pytest

from evomerge.cli.results import write_csv
from evomerge.errors import without_controls
from evomerge.report.facts import brief_rows
from evomerge.scores import Objective


def row(number: int, **more: Any) -> dict[str, Any]:
    plain = {"candidate": number, "origin": "optimizer", "generation": 0, "status": "scored"}
    numbers = {"fitness": 0.5, "error": None, "documents": 8, "winner": False, "failure": None}
    splits = {"search t/acc": 0.5, "validation t/acc": None, "test t/acc": 0.25}
    return {**plain, **numbers, "digest": "ab" * 32, **splits, **more}


ACC = [Objective("t", "acc")]


def test_a_terminal_gets_short_names_and_no_empty_columns() -> None:
    rows = [row(0, origin="/models/a/b", generation=None), row(1), row(2, winner=True)]
    brief = brief_rows(rows, ACC)
    assert [item["origin"] for item in brief] == ["b", "optimizer", "optimizer"]
    assert [item["status"] for item in brief] == ["scored", "scored", "winner"]
    assert list(brief[0]) == [
        *("candidate", "origin", "generation", "status", "fitness in %", "documents")
    ]
    failed = [*rows, row(3, failure="merge: NaN", error=0.1)]
    assert {"failure", "error in %"} <= set(brief_rows(failed, ACC)[0])
    assert brief_rows(failed, ACC)[3]["error in %"] == 10
    losses = [row(0, **{"fitness": -12.5, "search t/acc": -12.5}), row(1, fitness=-0.5)]
    assert [item["fitness"] for item in brief_rows(losses, ACC)] == [-12.5, -0.5]
    assert brief_rows([], ACC) == []


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "@=", "-1+"])
def test_a_text_like_a_formula_gets_an_apostrophe_and_others_stay(tmp_path, start):
    formula = f"{start}cmd|' /C calc'!A0\x1b[2J"
    shown = without_controls(formula)
    cells = [-1.5, None, True, "-1.5", "+2", "-1e-3", "a=b", " - ", "'", "", f"merge: {formula}"]
    write_csv([{formula: formula} | dict(zip("abcdefghijk", cells, strict=True))], tmp_path / "t")
    with (tmp_path / "t").open(newline="") as file:
        head, line = csv.reader(file)
    assert head == [f"'{shown}", *"abcdefghijk"]
    texts = [*cells[:-1], f"merge: {shown}"]
    assert line == [f"'{shown}", *("" if cell is None else str(cell) for cell in texts)]
