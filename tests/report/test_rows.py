"""The rows that a terminal shows."""

from __future__ import annotations

from typing import Any

from evomerge.report.rows import brief_rows


def row(number: int, **more: Any) -> dict[str, Any]:
    plain = {"candidate": number, "origin": "optimizer", "generation": 0, "status": "scored"}
    numbers = {"fitness": 0.5, "error": None, "documents": 8, "winner": False, "failure": None}
    return {**plain, **numbers, "digest": "ab" * 32, "test t/acc": 0.25, **more}


def test_a_terminal_gets_short_names_and_no_empty_columns() -> None:
    rows = [row(0, origin="/models/a/b", generation=None), row(1), row(2, winner=True)]
    brief = brief_rows(rows)
    assert [item["origin"] for item in brief] == ["b", "optimizer", "optimizer"]
    assert [item["status"] for item in brief] == ["scored", "scored", "winner"]
    assert list(brief[0]) == [
        *("candidate", "origin", "generation", "status", "fitness in %", "documents")
    ]
    failed = [*rows, row(3, failure="merge: NaN", error=0.1)]
    assert {"failure", "error in %"} <= set(brief_rows(failed)[0])
    assert brief_rows(failed)[3]["error in %"] == 10
    losses = [row(0, fitness=-12.5), row(1, fitness=-0.5)]
    assert [item["fitness"] for item in brief_rows(losses)] == [-12.5, -0.5]
    assert brief_rows([]) == []
