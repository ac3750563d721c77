"""Trade-offs: the score on each task, and the documents that only the merge answers rightly."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.report.agreement import Agreement, agreements
from evomerge.report.examples import examples_section
from evomerge.report.markup import folded, paragraph, table
from evomerge.report.sections.outcome import by_task
from evomerge.report.view import View

_MOST_IDS = 30


def tradeoffs(view: View) -> list[str]:
    """Return the section; empty if there is nothing to weigh."""
    parts: list[str] = []
    if len(view.table.columns) > 1:
        parts += ["<h3>Each task</h3>", *by_task(view.table)]
    split, found = agreements(view.history, view.best, view.objectives)
    if found:
        heads = ("score", "merge and a parent", "only the merge", "only a parent", "nobody")
        rows = [(a.key, a.both, a.only_merge, a.only_parents, a.nobody) for a in found]
        parts += [
            "<h3>Who is right</h3>",
            paragraph(f"Number of {split} documents that are answered rightly by"),
            table(heads, rows),
            folded("ids of these documents", "".join(_ids(item) for item in found)),
        ]
    parts += examples_section(view.history, view.best)
    return ["<h2>Trade-offs</h2>", *parts] if parts else []


def _ids(item: Agreement) -> str:
    return paragraph(
        f"{item.key}: only the merge: {_some(item.gained)}; only a parent: {_some(item.lost)}."
    )


def _some(ids: Sequence[int]) -> str:
    shown = ", ".join(map(str, ids[:_MOST_IDS])) or "none"
    return f"{shown}, ..." if len(ids) > _MOST_IDS else shown
