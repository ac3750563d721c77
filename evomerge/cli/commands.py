"""The command line application: its commands, in the order in which `--help` lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from evomerge.cli import answers, catalogue, files, models, runs
from evomerge.cli.options import TakesParents

app = typer.Typer(
    name="evomerge",
    help="Search for the best merge of language models; resume it any time; export the winner.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # the panels of Rich cut the names of options at 80 columns
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from evomerge import __version__

        typer.echo(f"evomerge {__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="show tracebacks of errors, and log messages")
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="print the version"),
    ] = False,
) -> None:
    """Search for the best merge of language models; resume it any time; export the winner."""
    # `evomerge.__main__` reads --debug before the command line is parsed.


app.command(short_help=files.init.__doc__, cls=TakesParents)(files.init)
for command in (
    *(files.validate, models.compare, runs.search, runs.resume, runs.stop),
    *(answers.status, answers.results),
    *(models.export, models.evaluate, models.merge),
    *(answers.report, models.push, files.schema),
):
    app.command(short_help=command.__doc__)(command)  # the whole line, where Typer would cut it
app.command(name="list")(catalogue.list_)
