"""The command `compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from evomerge.cli import terminal
from evomerge.cli.options import JsonOption


def compare(
    parents: Annotated[
        list[str], typer.Argument(metavar="PARENT...", help="folders, Hub ids, zoo:NAME")
    ],
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what the parents were trained from")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare parents before they are merged: what each changed, and which are alike."""
    from evomerge.api.compare import compare as compare_models

    found = compare_models(parents, base)
    if as_json:
        terminal.print_json(found.to_dict())
        return
    title = "" if base is None else "changes of the base's weights in %, and the nearest parent"
    terminal.print_table(*found.rows(), title=title)
    for note in [*found.advice, *found.notes]:
        terminal.say(note)
