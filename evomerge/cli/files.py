"""The commands about search files: write one, check one, print the schema."""

from __future__ import annotations

import shlex
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import terminal
from evomerge.cli.options import (
    AllowBenchmarksOption,
    AllowCodeOption,
    FileArgument,
    JsonOption,
    SetOption,
    TrustCodeOption,
)
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.setup.checked import CheckedSearch
    from evomerge.setup.estimate import Estimate


Preset = StrEnum("Preset", ["parameters", "dataflow", "gradient", "lorahub", "multi"])


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="new search file")] = Path(
        "search.yaml"
    ),
    preset: Annotated[Preset, typer.Option(help="what the file searches")] = Preset.parameters,
) -> None:
    """Write a commented search file to start from."""
    from evomerge.config.presets import write_preset

    write_preset(preset, file)
    terminal.say(f"wrote {file}; check it with `evomerge validate {shlex.quote(str(file))}`")


def validate(
    file: FileArgument,
    set_: SetOption = None,
    allow_benchmarks: AllowBenchmarksOption = False,
    allow_code: AllowCodeOption = False,
    trust_code: TrustCodeOption = False,
    time: Annotated[
        bool, typer.Option("--time", help="score a candidate, and estimate time and memory from it")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check a search file: parents, shapes, tasks, metrics, documents, memory."""
    from evomerge.config.schema import read
    from evomerge.setup.preflight import HEADERS, gene_list, gene_rows, summary, warnings
    from evomerge.setup.runs import prepare
    from evomerge.setup.search_file import folder_of, read_search

    search = read_search(read(file, set_), file)
    terminal.say_on_terminal(f"checking {file}")
    checked = prepare(search, folder_of(file), Permissions(allow_code, trust_code))
    notes = warnings(checked, allow_benchmarks)
    if as_json:
        cost = {"time": _cost(checked).to_dict()} if time else {}
        answer = {**summary(checked), "genes": gene_list(checked), "warnings": notes}
        terminal.print_json({"valid": True, **answer, **cost})
        return
    terminal.print_values(terminal.spoken(summary(checked)))
    if rows := gene_rows(checked):
        terminal.print_table(HEADERS, rows)
    if time:
        terminal.print_values(_cost(checked).in_words())
    terminal.warn(notes)
    terminal.say(f"{file} is valid")


def _cost(checked: CheckedSearch) -> Estimate:
    from evomerge.setup.estimate import estimate, try_candidate

    return estimate(checked, try_candidate(checked, terminal.say))


def schema() -> None:
    """Print the JSON Schema of the search file."""
    from evomerge.config.schema import SearchConfig

    terminal.print_json(SearchConfig.model_json_schema())
