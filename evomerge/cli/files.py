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
    AllowPickleOption,
    CompareOption,
    FileArgument,
    JsonOption,
    SetOption,
    TrustCodeOption,
    permissions,
)
from evomerge.cli.parents import print_comparison

if TYPE_CHECKING:
    from evomerge.report.parents.comparison import ParentComparison
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
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    trust_code: TrustCodeOption = False,
    time: Annotated[
        bool, typer.Option("--time", help="score a candidate, and estimate time and memory from it")
    ] = False,
    gpu_memory: Annotated[
        str | None,
        typer.Option(metavar="SIZE", help="plan for a GPU with this memory, e.g. 24GB"),
    ] = None,
    compare: CompareOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check a search file: parents, shapes, tasks, metrics, documents, memory."""
    from evomerge.config.schema import parse, read
    from evomerge.merging.backend import bytes_of
    from evomerge.setup import stages
    from evomerge.setup.genes import HEADERS, gene_list, gene_rows
    from evomerge.setup.preflight import summary, warnings
    from evomerge.setup.runs import prepare

    data = read(file, set_)
    allowed = permissions(allow_pickle, allow_code, trust_code)
    planned = None if gpu_memory is None else bytes_of(gpu_memory, "--gpu-memory")
    terminal.say_on_terminal(f"checking {file}")
    staged = stages.is_staged(data)
    if staged:
        searches = stages.check(data, file, allowed, planned)
    else:
        config = parse(data, str(file))
        searches = [prepare(config, file.parent, allowed, gpu_memory=planned)]
    notes = [warnings(checked, allow_benchmarks) for checked in searches]
    parents = [_compared(checked) if compare else None for checked in searches]
    if as_json:
        costs = [_cost(checked) if time else None for checked in searches]
        answers = [
            {**summary(checked), "genes": gene_list(checked), "warnings": own}
            | ({} if cost is None else {"time": cost.to_dict()})
            | ({} if compared is None else {"compared": compared.to_dict()})
            for checked, own, cost, compared in zip(searches, notes, costs, parents, strict=True)
        ]
        terminal.print_json({"valid": True, **({"stages": answers} if staged else answers[0])})
        return
    for number, checked in enumerate(searches, 1):
        place = {"stage": number} if staged else {}
        terminal.print_values({**place, **terminal.spoken(summary(checked))})
        if rows := gene_rows(checked):
            terminal.print_table(HEADERS, rows)
        if (compared := parents[number - 1]) is not None:
            print_comparison(compared)
        if not time:
            continue
        if (cost := _cost(checked)) is not None:
            terminal.print_values({**place, **cost.in_words()})
        else:
            terminal.say(f"stage {number} is not estimated: its parents do not exist yet")
    terminal.warn(note for own in notes for note in own)
    terminal.say(f"{file} is valid" + (f": {len(searches)} stages" if staged else ""))


def _compared(checked: CheckedSearch) -> ParentComparison | None:
    """Return a comparison of the parents; None if one is not there yet."""
    from evomerge.api.compare import compare_checked
    from evomerge.setup import stages
    from evomerge.setup.runs import with_merges_built

    if stages.needs_winner(checked):
        return None
    with with_merges_built(checked) as built:
        return compare_checked(built)


def _cost(checked: CheckedSearch) -> Estimate | None:
    """Try a candidate and return what the search costs; None if a parent is not there yet."""
    from evomerge.cli.live import steps
    from evomerge.setup import stages
    from evomerge.setup.estimate import estimate, try_candidates
    from evomerge.setup.runs import with_merges_built

    if stages.needs_winner(checked):
        return None
    with steps() as say, with_merges_built(checked) as built:
        return estimate(built, try_candidates(built, say))


def schema() -> None:
    """Print the JSON Schema of the search file."""
    from evomerge.config.schema import SearchConfig

    terminal.print_json(SearchConfig.model_json_schema())
