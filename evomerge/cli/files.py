"""The commands about search files: write one, check one, print the schema."""

import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from evomerge.cli import options, terminal
from evomerge.trust.consent import Permissions

Preset = StrEnum("Preset", ["parameters", "dataflow", "gradient", "lorahub", "multi"])


def init(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="new search file")] = Path(
        "search.yaml"
    ),
    parents: options.ParentsOption = None,
    base: Annotated[
        str | None, typer.Option(metavar="MODEL", help="what the parents were trained from")
    ] = None,
    task: Annotated[
        list[str] | None,
        typer.Option(metavar="TASK", help="task of lm-eval, or file of rows; can be repeated"),
    ] = None,
    include: Annotated[
        list[str] | None, typer.Option(metavar="DIR", help="folder with task YAML of your own")
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="without parents: an example of what is searched")
    ] = Preset.parameters,
    allow_code: options.HiddenCodeOption = False,
    trust_code: options.HiddenTrustOption = False,
) -> None:
    """Write a search file: for your parents and tasks, or an example."""
    from evomerge.config.presets import preset_text
    from evomerge.errors import InputError
    from evomerge.run.atomic import write_output

    if file.exists():
        raise InputError(f"{file} exists already; give another name.")
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file} cannot be written: there is no {file.parent}; give another name.")
    text, what = preset_text(preset), "check it with `evomerge validate"
    if parents or base or task or include:
        terminal.say("opening parents and tasks")
        from evomerge.problem.draft import draft

        allowed = Permissions(allow_code, trust_code)
        text = draft(file, parents or [], base, task or [], include or [], allowed)
        what = "see what it costs with `evomerge validate --time"
    write_output(file, text, "the search file")
    terminal.say(f"wrote {file}; {what} {shlex.quote(str(file))}`")


def validate(
    file: options.FileArgument,
    set_: options.SetOption = None,
    allow_benchmarks: options.HiddenBenchmarksOption = False,
    allow_code: options.HiddenCodeOption = False,
    trust_code: options.TrustCodeOption = False,
    time: Annotated[
        bool, typer.Option("--time", help="score a candidate, and estimate time and memory from it")
    ] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Check a search file: parents, tasks, metrics, documents, memory."""
    terminal.say(f"checking {file}, its parents and tasks")
    from evomerge.api.search import check
    from evomerge.config.schema import read

    data, allowed = read(file, set_), Permissions(allow_code, trust_code)
    how = {"allow_benchmarks": allow_benchmarks, "every_weight": time}
    validation = check(data, file, allowed, **how)
    if as_json:
        cost = validation.estimate(terminal.say) if time else None
        terminal.print_json(validation.to_dict(cost))
        return
    terminal.print_values(validation.facts)
    headers, rows = validation.gene_table()
    if rows:
        terminal.print_table(headers, rows)
    if time:
        terminal.print_values(validation.estimate(terminal.say).in_words())
    terminal.warn(validation.warnings)
    terminal.say(f"{file} is valid")


def schema() -> None:
    """Print the JSON Schema of the search file."""
    from evomerge.config.schema import SearchConfig

    terminal.print_json(SearchConfig.model_json_schema())
