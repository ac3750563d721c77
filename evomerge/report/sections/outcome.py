"""Did it work? The verdict, and the searched merge beside the parents and the uniform merge."""

from __future__ import annotations

from evomerge.report.markup import paragraph, picture, table, text
from evomerge.report.standings import Standings
from evomerge.report.verdict import main_column, verdict
from evomerge.report.view import View
from evomerge.scores import Split

_ORDER: tuple[Split, ...] = ("test", "validation", "search")


def outcome(view: View) -> list[str]:
    """Return the section."""
    found = verdict(view.table, view.best)
    kind = "verdict" if found.works else "verdict no"
    parts = ["<h2>Did it work?</h2>", paragraph(found.text, kind)]
    if not view.table.rows:
        return parts
    parts += [
        _standings(view.table, main_column(view.table)),
        paragraph(
            "Candidates were compared on the search documents, the winner was chosen on the "
            "validation documents, and nothing was chosen on the test documents. Shares are in "
            "per cent, with 95 % intervals.",
            "lead",
        ),
        picture(
            "standings",
            view.figures["standings"],
            "Each model with its 95 % interval on the three kinds of documents.",
        ),
    ]
    comparisons = view.table.comparisons
    if comparisons:
        split = view.table.compared_on
        rows = [(view.table.names[name], item.text) for name, item in comparisons.items()]
        own = "winner" if view.table.names["searched"] == "winner" else "searched merge"
        parts += [table((f"{own} against", f"difference on {split} documents"), rows)]
    return parts


def _standings(found: Standings, column: str) -> str:
    """Return the table of one column of the standings: a row for each model."""
    rows, marked = [], None
    for index, row in enumerate(found.rows):
        cells: list[object] = [found.names[row.label]]
        for split in _ORDER:
            item = row.estimates.get((split, column))
            cells.append(item.texts(found.factor(column)) if item else "-")
        rows.append(cells)
        marked = index if row.label == "searched" else marked
    return table(("model", *_ORDER), rows, marked)


def by_task(found: Standings) -> list[str]:
    """Return a table for each task, with its name above, since a phone has no room for a column."""
    parts = []
    for column in found.columns:
        if column != main_column(found):
            parts += [f"<h4>{text(column)}</h4>", _standings(found, column)]
    return parts
