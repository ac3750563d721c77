"""The page of the commands, from the command line application itself."""

from __future__ import annotations

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from evomerge.cli.commands import app

_END = """## Exit codes

| code | meaning |
| --- | --- |
| 0 | the command did what it was asked to do |
| 1 | it failed; the message says whether `evomerge resume` can go on |
| 2 | wrong input: an option, a file, a folder; nothing was computed |
| 130 | interrupted by Ctrl-C; `evomerge resume` goes on |
| 143 | ended by SIGTERM, such as a job that is preempted; `evomerge resume` goes on |
"""


def commands() -> str:
    """Return the page: each command with its arguments and options."""
    command = get_command(app)
    context = typer.Context(command, info_name="evomerge")
    with context:
        text = get_docs_for_click(obj=command, ctx=context, name="evomerge", title="Commands")
    return text + _END
