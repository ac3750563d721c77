"""The command line: each command reads its arguments, calls the system, prints the answer."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.options import (
    AllowBenchmarksOption,
    AllowPickleOption,
    CandidatesOption,
    FileArgument,
    JsonOption,
    OutOption,
    RunFolderArgument,
    SetOption,
)

if TYPE_CHECKING:
    from evomerge.run.folder import RunFolder
    from evomerge.setup.problem import Problem

app = typer.Typer(
    name="evomerge",
    help="Search for the best merge of language models; resume it any time; export the winner.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="show tracebacks of errors")] = False,
) -> None:
    """Search for the best merge of language models; resume it any time; export the winner."""


@app.command()
def init(
    file: Annotated[Path, typer.Argument(metavar="FILE")] = Path("search.yaml"),
    preset: Annotated[str, typer.Option(help="parameters, dataflow, joint or multi")] = (
        "parameters"
    ),
) -> None:
    """Write a commented search file to start from."""
    from evomerge.cli.terminal import say
    from evomerge.config.presets import write_preset

    write_preset(preset, file)
    say(f"wrote {file}; check it with `evomerge validate {file}`")


@app.command()
def validate(
    file: FileArgument,
    set_: SetOption = None,
    allow_benchmarks: AllowBenchmarksOption = False,
    allow_pickle: AllowPickleOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check everything that can be known without compute."""
    from evomerge.cli import terminal
    from evomerge.config.schema import load, read
    from evomerge.setup import stages
    from evomerge.setup.preflight import facts, warnings
    from evomerge.setup.runs import prepare

    if stages.is_staged(data := read(file, set_)):
        problems = stages.check(data, file, allow_pickle=allow_pickle)
        told = [warnings(problem, allow_benchmarks) for problem in problems]
        if as_json:
            checked = [
                {**facts(problem), "warnings": notes}
                for problem, notes in zip(problems, told, strict=True)
            ]
            terminal.print_json({"valid": True, "stages": checked})
            return
        _warn([note for notes in told for note in notes])
        terminal.say(f"{file} is valid: {len(problems)} stages")
        return
    problem = prepare(load(file, set_), file.parent, allow_pickle=allow_pickle)
    found, notes = facts(problem), warnings(problem, allow_benchmarks)
    if as_json:
        terminal.print_json({"valid": True, **found, "warnings": notes})
        return
    terminal.print_facts(found)
    _warn(notes)
    terminal.say(f"{file} is valid")


@app.command()
def search(
    file: FileArgument,
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="new folder for the run")],
    candidates: CandidatesOption = None,
    set_: SetOption = None,
    allow_benchmarks: AllowBenchmarksOption = False,
    allow_pickle: AllowPickleOption = False,
) -> None:
    """Start a search."""
    from evomerge.config.schema import load, read
    from evomerge.run.folder import RunFolder
    from evomerge.setup import stages
    from evomerge.setup.check import freeze
    from evomerge.setup.preflight import warnings
    from evomerge.setup.runs import prepare

    RunFolder.check_free(run)
    if stages.is_staged(data := read(file, set_)):
        if candidates:
            data = stages.with_candidates(data, candidates)
        problems = stages.start(data, file, run, allow_pickle=allow_pickle)
        _warn([note for problem in problems for note in warnings(problem, allow_benchmarks)])
        stages.go(run, lambda stage, problem: _go(stage, problem, {}))
        return
    overrides = [*(set_ or []), *([f"budget.candidates={candidates}"] if candidates else [])]
    problem = prepare(load(file, overrides), file.parent, allow_pickle=allow_pickle)
    _warn(warnings(problem, allow_benchmarks))
    _go(RunFolder.create(run, freeze(problem)), problem, {})


@app.command()
def resume(
    directory: RunFolderArgument,
    candidates: CandidatesOption = None,
    hours: Annotated[float | None, typer.Option(min=0.0, help="working time in all")] = None,
) -> None:
    """Continue a search, with a larger budget if you give one."""
    from evomerge.errors import InputError
    from evomerge.run.folder import STAGES, RunFolder
    from evomerge.setup import stages
    from evomerge.setup.runs import reopen

    if (directory / STAGES).is_file():
        if candidates or hours:
            raise InputError(
                "--candidates and --hours belong to one run; name a stage, for example "
                f"{directory / 'stage-1'}."
            )
        stages.go(directory, lambda stage, problem: _go(stage, problem, {}))
        return
    run = RunFolder(directory)
    raised = {"candidates": candidates, "hours": hours}
    _go(run, reopen(run), {name: value for name, value in raised.items() if value is not None})


def _warn(notes: Iterable[str]) -> None:
    from evomerge.cli import terminal

    for note in dict.fromkeys(notes):
        terminal.say(f"warning: {note}")


def _go(run: RunFolder, problem: Problem, raised: dict[str, float]) -> None:
    from evomerge.cli import terminal
    from evomerge.errors import Terminated
    from evomerge.report.standings import standings
    from evomerge.run.history import History
    from evomerge.search.ranking import WeightedSum
    from evomerge.setup.search import run_search

    total = raised.get("candidates") or problem.config.budget.candidates
    ranking = WeightedSum(problem.objectives)
    display = terminal.SearchDisplay(int(total) if total else None, ranking)
    try:
        with display.shown():
            winner = run_search(problem, run, raised, [display.observe])
    except KeyboardInterrupt as signal:
        how = "terminated" if isinstance(signal, Terminated) else "interrupted"
        terminal.say(f"{how}; nothing is lost, `evomerge resume {run.path}` goes on")
        raise
    terminal.print_standings(standings(History(run.events()), problem.objectives))
    terminal.say(
        f"candidate {winner.number} won; export it with `evomerge export {run.path} --out MODEL`"
    )


@app.command()
def status(
    directory: RunFolderArgument,
    as_json: JsonOption = False,
    watch: Annotated[bool, typer.Option(help="refresh until the search ends")] = False,
) -> None:
    """Say how far a search is."""
    import time

    from evomerge.cli import terminal
    from evomerge.report.progress import progress
    from evomerge.run.folder import RunFolder

    run = RunFolder(directory)
    while True:
        facts = progress(run)
        if as_json:
            terminal.print_json(facts)
        else:
            terminal.print_facts(facts)
        if not watch or facts["state"] != "running":
            return
        time.sleep(2)


@app.command()
def results(
    directory: RunFolderArgument,
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="write CSV")] = None,
    as_json: JsonOption = False,
) -> None:
    """One row a candidate, and the standings of parents, uniform merge and winner."""
    from evomerge.cli import terminal
    from evomerge.config.frozen import frozen_objectives
    from evomerge.config.schema import parse
    from evomerge.report.rows import candidate_rows, write_csv
    from evomerge.report.standings import standings
    from evomerge.run.folder import RunFolder
    from evomerge.run.history import History

    run = RunFolder(directory)
    history = History(run.events())
    objectives = frozen_objectives(parse(run.config(), str(run.path / "search.yaml")))
    rows = candidate_rows(history, objectives)
    if csv is not None:
        write_csv(rows, csv)
        terminal.say(f"wrote {len(rows)} rows to {csv}")
    elif as_json:
        winner = history.winner.number if history.winner else None
        table = standings(history, objectives).to_dict()
        terminal.print_json({"candidates": rows, "winner": winner, "standings": table})
    else:
        terminal.print_rows(rows, "candidate")
        if terminal.out.is_terminal:
            terminal.print_standings(standings(history, objectives))


@app.command()
def export(
    directory: RunFolderArgument,
    out: OutOption,
    candidate: Annotated[str, typer.Option(help="`best` or a candidate's number")] = "best",
    dtype: Annotated[str | None, typer.Option(help="another dtype than was scored")] = None,
    shard_size: Annotated[str, typer.Option(help="largest file, e.g. 5GB")] = "5GB",
) -> None:
    """Write a candidate as an ordinary Hugging Face checkpoint."""
    from evomerge.cli import terminal
    from evomerge.export.candidate import export_candidate
    from evomerge.run.folder import RunFolder

    number = export_candidate(RunFolder(directory), out, candidate, dtype, shard_size)
    terminal.say(f"wrote candidate {number} to {out}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="folder, Hub id or zoo:NAME")],
    config: Annotated[Path, typer.Option("--config", metavar="FILE", help="search file")],
    split: Annotated[str, typer.Option(help="search, validation or test")] = "test",
    as_json: JsonOption = False,
) -> None:
    """Score any model on a search's own documents."""
    from evomerge.cli import terminal
    from evomerge.config.schema import load
    from evomerge.report.confidence import factor_of, intervals
    from evomerge.setup.runs import prepare
    from evomerge.setup.search import evaluate as scored

    problem = prepare(load(config), config.parent)
    scores = scored(problem, model, split)
    estimates = intervals(problem.objectives, scores)
    if as_json:
        facts = {key: item.to_dict() for key, item in estimates.items()}
        answer = {"model": model, "split": split, "documents": scores.fidelity, "scores": facts}
        terminal.print_json(answer)
        return
    rows = [(k, terminal.estimate(v, factor_of([v.value]))) for k, v in estimates.items()]
    terminal.print_table(("score", f"{split} [95 %]"), rows)


@app.command()
def merge(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="ours, or mergekit's")],
    out: OutOption,
    memory: Annotated[str, typer.Option(help="peak memory, e.g. 8GB")] = "8GB",
    shard_size: Annotated[str, typer.Option(help="largest file, e.g. 5GB")] = "5GB",
    allow_pickle: AllowPickleOption = False,
) -> None:
    """Build one merged model on disk, out of core."""
    from evomerge.cli import terminal
    from evomerge.export.recipe import merge_recipe

    notes = merge_recipe(recipe, out, memory, shard_size, allow_pickle=allow_pickle)
    for note in notes:
        terminal.say(note)
    terminal.say(f"wrote {out}")


@app.command()
def report(
    directory: RunFolderArgument,
    out: Annotated[Path | None, typer.Option(metavar="FILE.html")] = None,
) -> None:
    """Write the run as one HTML page."""
    from evomerge.cli import terminal
    from evomerge.report.page import write_page
    from evomerge.run.folder import RunFolder

    run = RunFolder(directory)
    target = out or run.path / "report.html"
    write_page(run, target)
    terminal.say(f"wrote {target}")


@app.command()
def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="an exported model")],
    repository: Annotated[str, typer.Argument(metavar="REPO_ID", help="org/name on the Hub")],
    private: Annotated[bool, typer.Option("--private/--public")] = True,
) -> None:
    """Upload an exported model to the Hugging Face Hub."""
    from evomerge.cli import terminal
    from evomerge.export.hub import push_model

    terminal.say(f"pushed to {push_model(model, repository, private=private)}")


@app.command()
def convert(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="a mergekit-evolve config")],
) -> None:
    """Print the search file that stands for a mergekit-evolve config."""
    from evomerge.mergekit import convert_file

    typer.echo(convert_file(file), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON Schema of the search file."""
    from evomerge.cli.terminal import print_json
    from evomerge.config.schema import SearchConfig

    print_json(SearchConfig.model_json_schema())


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="methods, optimizers, spaces or parents")],
    as_json: JsonOption = False,
) -> None:
    """List what this installation knows."""
    from evomerge.cli import terminal
    from evomerge.cli.catalogue import rows_of

    rows = rows_of(what)
    if as_json:
        terminal.print_json(rows)
        return
    terminal.print_rows(rows, "name")
