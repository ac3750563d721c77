"""The command line application: its commands, in the order in which `--help` lists them."""

from __future__ import annotations

from typing import Annotated

import typer

from evomerge.cli import answers, catalogue, files, models, runs

_ADAPTERS = (
    "evomerge writes no adapters; `mergekit-extract-lora` makes one of a base and a model that "
    "`evomerge export` or `evomerge merge` wrote."
)
GONE = {
    "--allow-pickle": "pickled weights need no option: they are converted, without running code, "
    "when a parent is opened.",
    "--as": _ADAPTERS,
    "--compare": "`evomerge compare PARENT ... --base MODEL` compares parents.",
    "--html": "`evomerge compare` prints one table, and with `--json` all its figures.",
    "--notify": "a shell tells of the end of a search: `evomerge search ...; notify-send done`.",
    "convert": "docs/from-other-tools.md has the keys of mergekit-evolve and mergenetic beside "
    "those of a search file; `evomerge init` writes one to start from.",
    "dashboard": "`evomerge report` and `evomerge status --watch` show runs, and `--track` logs a "
    "search to a tracker.",
    "extract": _ADAPTERS,
    "moe": "evomerge makes no mixtures of experts; `mergekit-moe FILE DIR` does, also of models "
    "that `evomerge export` and `evomerge merge` write.",
    "sweep": "a loop of the shell runs many searches (`for seed in 0 1 2; do evomerge search FILE "
    "--set seed=$seed --run runs/mine-$seed --resume; done`), and `evomerge results RUN RUN ...` "
    "compares them.",
    "transplant": "evomerge gives no model another vocabulary; `mergekit-tokensurgeon MODEL DONOR "
    "DIR` does, and its result may be a parent.",
}
"""A command or an option that people look for here -> what does its work."""

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


for command in (
    *(files.init, files.validate, models.compare, runs.search, runs.resume, runs.stop),
    *(answers.status, answers.results),
    *(models.export, models.evaluate, models.merge),
    *(answers.report, models.push, files.schema),
):
    app.command(short_help=command.__doc__)(command)  # the whole line, where Typer would cut it
app.command(name="list")(catalogue.list_)
