"""The rows of `evomerge results`, of candidates and of runs, for people and for spreadsheets."""

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from evomerge.errors import printable, without_controls
from evomerge.report.confidence import Interval
from evomerge.report.rows import rows_in_per_cent, score_keys
from evomerge.run.atomic import write_output
from evomerge.scores import Objective
from evomerge.words import short_names, short_scores

_BRIEF = ("candidate", "origin", "generation", "status", "fitness", "error", "documents", "failure")

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text begins that a spreadsheet takes for a formula; it reads wide forms as plain ones."""

_LATEX = str.maketrans(
    {sign: rf"\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)

_SCORES = ("score", "best_parent", "uniform")
_COSTS = ("candidates", "CPU s")


def brief_rows(
    rows: Sequence[dict[str, Any]], objectives: Sequence[Objective]
) -> list[dict[str, Any]]:
    """Return the columns that fit a terminal, without those that are empty in all rows.

    The winner's status is `winner`, local parents have short names, and shares are in per cent.
    """
    names = short_names(row["origin"] for row in rows)
    heads = {name: name for name in _BRIEF}
    if all(row["fitness"] is None for row in rows):  # in a search for a front
        heads |= {f"search {key}": short for key, short in short_scores(score_keys(rows)).items()}
    brief = []
    for row in rows_in_per_cent(rows, objectives):
        plain = {name: name.removesuffix(" in %") for name in row}
        cells = {n.replace(p, heads[p]): row[n] for n, p in plain.items() if p in heads}
        cells["origin"] = names[row["origin"]]
        if row.get("front"):
            cells["status"] = "knee" if row["winner"] else "front"
        elif row["winner"]:
            cells["status"] = "winner"
        brief.append(cells)
    used = [name for name in (brief or [{}])[0] if any(row[name] is not None for row in brief)]
    return [{name: row[name] for name in used} for row in brief]


def best_rows(rows: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Return so many rows, by fitness or, in a search for a front, by the first objective."""
    column = "fitness"
    if rows and all(row["fitness"] is None for row in rows):
        column = next(key for key in rows[0] if key.startswith("search "))
    return sorted(rows, key=lambda row: (row[column] is None, -(row[column] or 0)))[:count]


def runs_in_words(rows: Sequence[Mapping[str, Any]]) -> tuple[Sequence[str], list[list[str]]]:
    """Return headers and rows for people; of `2 of 3` runs one has not ended."""
    lines, scored = [], dict[str, None]()
    for row in rows:
        seeds, factor = str(row["seeds"]), 100.0 if row["percent"] else 1.0
        if row["seeds"] < row["runs"]:
            seeds += f" of {row['runs']}"
        scores = [Interval(math.nan if row[name] is None else row[name]) for name in _SCORES]
        if row["score"] is not None:
            scores[0] = Interval(row["score"], row["low"], row["high"])
        texts = (item.text(factor) for item in scores)
        costs = (f"{row[name]:,.0f}" for name in ("candidates", "cpu_seconds"))
        lines.append([row["search"], seeds, str(row["merges_won"]), *texts, *costs])
        metric = "fitness" if ", " in row["objective"] else row["objective"].rpartition("/")[2]
        scored[f"{metric} in %" if row["percent"] else metric] = None
    test = f"test {' or '.join(scored)}"
    return ("search", "seeds", "merges won", test, "best parent", "uniform", *_COSTS), lines


def latex_table(heads: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> str:
    """Return a table for LaTeX, under a comment; it needs the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        texts = (printable(text, len(text)).translate(_LATEX) for text in cells)
        return re.sub(r"(?<![^ \[])-(?=\d)", "$-$", " & ".join(texts)) + r" \\"

    columns = "l" + "r" * (len(heads) - 1)
    parts = [rf"% {printable(title)}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(heads)]
    parts += [r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def _harmless(cell: Any) -> Any:
    """Return a cell that a spreadsheet and a terminal show and do not run."""
    if not isinstance(cell, str):
        return cell
    mark = "'" if cell.startswith(_FORMULA) and not _is_number(cell) else ""
    return mark + without_controls(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV with a header line. InputError: the file cannot be written.

    A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, CSV
    injection). Texts of numbers stay as they are. Control characters are replaced.
    """
    text = io.StringIO(newline="")
    names = list(rows[0]) if rows else ["candidate"]
    writer = csv.writer(text)
    writer.writerow(map(_harmless, names))
    writer.writerows([_harmless(row[name]) for name in names] for row in rows)
    write_output(path, text.getvalue(), "--csv")
