"""Printing for all commands: Rich tables on a terminal, plain lines in a pipe.

Texts from files are shown as they are: nothing in them is markup of Rich, or steers the terminal.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.table import Table

from evomerge.errors import escaped_controls, without_controls
from evomerge.parsing.values import replaced
from evomerge.scores import Example

if TYPE_CHECKING:
    from evomerge.report.also import Kept
    from evomerge.report.standings import Standings
    from evomerge.run.folder import RunFolder

_SPOKEN = {
    "best": "best on search",
    "best_parent": "best parent on search",
    "hours": "time",
    "remaining_hours": "time left",
    "candidates_per_hour": "candidates an hour",
    "dimension": "genes",
}
"""Names of values -> what people read, where it is more than a space for each `_`."""

out = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
err = Console(stderr=True, soft_wrap=True, markup=False, emoji=False, highlight=False)


def print_json(value: Any, *, in_a_line: bool = False) -> None:
    """Print a value as strict JSON; nan and infinities become null. A line is told at once."""
    indent = None if in_a_line else 2
    text = json.dumps(replaced(value, _finite), indent=indent, ensure_ascii=False)
    sys.stdout.write(escaped_controls(text) + "\n")
    if in_a_line:
        sys.stdout.flush()


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print a table: Rich on a terminal, tab-separated lines in a pipe."""
    if not out.is_terminal:
        for row in (headers, *rows):
            sys.stdout.write("\t".join(map(one_cell, row)) + "\n")
        return
    out.print(make_table(headers, rows, title))


def make_table(headers: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    """Return a table for a terminal: three scores with intervals fit into 80 columns."""
    table = Table(
        title=one_cell(title) or None,
        title_justify="left",
        box=SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
    )
    for index, header in enumerate(headers):
        figures = all(row[index][:1] in "-+.0123456789" for row in rows)
        justify: JustifyMethod = "right" if figures else "left"
        table.add_column(one_cell(header), justify=justify, no_wrap=index == 0, overflow="fold")
    for row in rows:
        table.add_row(*map(one_cell, row))
    return table


def one_cell(text: str) -> str:
    """Return a text as one line without tabs, which in a pipe separate columns."""
    return without_controls(re.sub(r"[\t\n\r]+", " ", text))


def print_values(values: Mapping[str, Any]) -> None:
    """Print named values, one on each line."""
    print_table(*spoken(values))


def spoken(values: Mapping[str, Any]) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Return headers and rows of named values; the name `best_parent` is `best parent`."""
    return ("what", "value"), [
        (_SPOKEN.get(name, name.replace("_", " ")), text_of(value))
        for name, value in values.items()
    ]


def print_rows(rows: Sequence[Mapping[str, Any]], first: str) -> None:
    """Print records with the same keys as a table; without records, the first header."""
    headers = list(rows[0]) if rows else [first]
    print_table(headers, [[text_of(row[name]) for name in headers] for row in rows])


def print_standings(table: Standings) -> None:
    """Print all models in a table for each score; of a front or a study in one for all."""
    for part in table.tables():
        heads = part.heads if out.is_terminal else (part.title, *part.heads[1:])
        intervals = ", with 95 % intervals" if table.has_documents else ""
        print_table(heads, part.texts, title=f"{part.title}{intervals}")
    if table.note is not None:
        say(table.note)
    for label, comparison in table.comparisons.items():
        models = f"{table.names['searched']} - {table.names[label]}"
        say(f"{models} on {table.compared_on}: {comparison.text}")
    if differences := table.differences():
        print_table(*differences, title="differences of merges and parents")


def print_kept(measures: Iterable[Kept]) -> None:
    """Print what was measured besides the objectives, in a table for each."""
    for part in (measure.table() for measure in measures):
        heads = part.heads if out.is_terminal else (part.title, *part.heads[1:])
        print_table(heads, part.texts, title=f"{part.title}, with 95 % intervals")


def print_examples(examples: Iterable[Example]) -> None:
    """Print scored documents with prompt, answer and target."""
    for example in examples:
        out.print(without_controls("\n".join(example_lines(example))))


def example_lines(example: Example) -> list[str]:
    """Return a scored document as lines of text."""
    values = ", ".join(f"{name} {value:g}" for name, value in example.values.items())
    parsed = [] if example.parsed == example.answer else [f"  parsed: {example.parsed!r}"]
    return [
        f"{example.task}, document {example.document}: {values}".removesuffix(": "),
        f"  prompt: {example.prompt!r}",
        *([f"  answer: {example.answer!r}"] if example.values else []),
        *parsed,
        *([f"  target: {example.target!r}"] if example.target else []),
    ]


def text_of(value: Any) -> str:
    """Return any plain value as text for people."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {text_of(part)}" for key, part in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(text_of(part) for part in value)
    return str(value)


def say(message: str, *, unbroken: bool = False) -> None:
    """Print a message of one line to standard error.

    A terminal breaks it into lines at spaces, but no path and no command; `unbroken`: not at all.
    """
    message = one_cell(message)
    if err.is_terminal and not unbroken:
        whole = re.sub("`[^`]+`", lambda code: code[0].replace(" ", "\0"), message)
        filled = textwrap.fill(whole, err.width, break_long_words=False, break_on_hyphens=False)
        message = filled.replace("\0", " ")
    err.print(message)


def say_why_not_in_mergekit(run: RunFolder) -> None:
    """Say why a run has no mergekit file of its best merge, if this is so."""
    if (reason := run.why_not_in_mergekit) is not None:
        say(f"there is no best.mergekit.yaml: {reason}")


def warn(notes: Iterable[str]) -> None:
    """Print each different warning once, to standard error."""
    for note in dict.fromkeys(notes):
        say(f"warning: {note}")
