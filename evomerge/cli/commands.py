"""The command line application: its commands, in the order in which `--help` lists them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from evomerge.cli import models, results, search
from evomerge.cli.options import TakesParents

GROUPS: Mapping[str, Sequence[Callable[..., None]]] = {
    "Search": (search.init, search.validate, search.search, search.resume, search.stop),
    "Results": (results.status, results.results, results.report, results.export, results.push),
    "Models": (models.compare, models.merge, models.evaluate),
    "Information": (models.list_, models.schema),
}
"""Title of a part of `--help` -> the functions of its commands."""


class _Grouped(TyperGroup):
    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands of each group under its title."""
        for title, functions in GROUPS.items():
            with formatter.section(title):
                commands = (self.commands[_name(function)] for function in functions)
                rows = [(f"{one.name:<8}", one.get_short_help_str(99)) for one in commands]
                formatter.write_dl(rows)


def _name(function: Any) -> str:
    return str(function.__name__).rstrip("_")


app = typer.Typer(
    name="evomerge",
    cls=_Grouped,
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


for _functions in GROUPS.values():
    for _function in _functions:
        # The whole line, where Typer would cut it.
        _kind = TakesParents if _function is search.init else None
        app.command(_name(_function), cls=_kind, short_help=_function.__doc__)(_function)
