"""Did it work? The verdict, and the searched merge beside the parents and the uniform merge."""

from __future__ import annotations

from evomerge.report.markup import paragraph, picture, table, text
from evomerge.report.names import short_scores
from evomerge.report.standings import Standings
from evomerge.report.verdict import front_rows, main_column, verdict
from evomerge.report.view import View
from evomerge.scores import Split

_ORDER: tuple[Split, ...] = ("test", "validation", "search")


def outcome(view: View) -> list[str]:
    """Return the section."""
    found = verdict(view.table, view.best)
    kind = "verdict" if found.works else "verdict no"
    chosen = "the front" if view.table.has_front else "the winner"
    parts = ["<h2>Did it work?</h2>", paragraph(found.text, kind)]
    if not view.table.rows:
        return parts
    parts += [
        _front(view.table)
        if view.table.has_front
        else _standings(view.table, main_column(view.table)),
        paragraph(
            f"Candidates were compared on the search documents, {chosen} was chosen on the "
            "validation documents, and nothing was chosen on the test documents. Shares are in "
            f"per cent, with 95 % intervals. {view.table.note or ''}",
            "lead",
        ),
        picture(
            "standings",
            view.figures["standings"],
            "Each model with its 95 % interval on the three kinds of documents.",
        )
        if not view.table.has_front
        else picture("front", view.figures["front"], "The front, and all candidates."),
    ]
    if neighbours := front_rows(view.table):
        parts += [
            "<h3>Which of these differ</h3>",
            paragraph(
                "Neighbours on the front. They are apart if each is better than the other in some "
                "objective beyond doubt: the 95 % interval of the difference does not contain 0. "
                "Differences above 0 say that the first is better.",
                "lead",
            ),
            table(*neighbours),
        ]
    comparisons = view.table.comparisons
    if comparisons:
        split = view.table.compared_on
        rows = [(view.table.names[name], item.text) for name, item in comparisons.items()]
        own = "winner" if view.table.names["searched"] == "winner" else "searched merge"
        parts += [table((f"{own} against", f"difference on {split} documents"), rows)]
    if lines := view.settings:
        parts += ["<h3>Settings that differ between the parents</h3>", *map(paragraph, lines)]
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


def _front(found: Standings) -> str:
    """Return the table of a front: a row for each model, a column for each score."""
    split: Split = found.compared_on or "search"
    rows, knee = [], None
    for index, row in enumerate(found.rows):
        cells: list[object] = [found.names[row.label]]
        for column in found.columns:
            item = row.estimates.get((split, column))
            cells.append(item.texts(found.factor(column)) if item else "-")
        rows.append(cells)
        knee = index if row.label.endswith("(knee)") else knee
    names = short_scores(found.columns)
    heads = [f"{names[column]} on {split}" for column in found.columns]
    return table(("model", *heads), rows, knee)


def by_task(found: Standings) -> list[str]:
    """Return a table for each task, with its name above, since a phone has no room for a column."""
    parts = []
    for column in found.columns:
        if column != main_column(found):
            parts += [f"<h4>{text(column)}</h4>", _standings(found, column)]
    return parts
