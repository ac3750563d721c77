"""The command `compare`, and what other commands print of a comparison of parents."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import terminal
from evomerge.cli.options import JsonOption

if TYPE_CHECKING:
    from evomerge.report.parents.comparison import ParentComparison


def compare(
    parents: Annotated[
        list[str], typer.Argument(metavar="PARENT...", help="folders, Hub ids, zoo:NAME")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what the parents were trained from")
    ] = None,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="write one page, with a picture")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare parents before they are merged: what each changed, and where they disagree."""
    from evomerge.api.compare import compare as compare_models
    from evomerge.run.atomic import check_output

    if html is not None:
        check_output(html, "--html")
    found = compare_models(parents, base)
    if html is not None:
        from evomerge.report.parents.page import write_comparison

        write_comparison(found, html)
        terminal.say(f"wrote {html}")
    if as_json:
        terminal.print_json(found.to_dict())
    else:
        print_comparison(found)


def print_comparison(found: ParentComparison) -> None:
    """Print the tables and the notes of a comparison."""
    for title, (heads, rows) in found.tables.items():
        terminal.print_table(heads, rows, title=title)
    for note in found.notes:
        terminal.say(note)
