"""The commands of a search: write its file, check it, start it, continue it, stop it."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli import options, terminal
from evomerge.errors import InputError, Terminated
from evomerge.run.folder import RunFolder
from evomerge.trust.code import Permissions

if TYPE_CHECKING:
    from evomerge.api.search import OpenRun
    from evomerge.problem.problem import Problem

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
    from_: Annotated[
        Path | None,
        typer.Option("--from", metavar="FILE", help="file of mergekit or mergekit-evolve"),
    ] = None,
    preset: Annotated[
        Preset, typer.Option(help="without parents: an example of what is searched")
    ] = Preset.parameters,
    allow_code: options.HiddenCodeOption = False,
    trust_code: options.HiddenTrustOption = False,
) -> None:
    """Write a search file: for your parents and tasks, or an example."""
    from evomerge.config import preset_text
    from evomerge.run.atomic import write_output

    if file.exists():
        raise InputError(f"{file} exists already; give another name.")
    if not file.absolute().parent.is_dir():
        raise InputError(f"{file} cannot be written: there is no {file.parent}; give another name.")
    text, what = preset_text(preset), "check it with `evomerge validate"
    notes: Sequence[str] = ()
    if parents or base or task or include or from_:
        terminal.say("opening parents and tasks")
        from evomerge.problem.draft import draft

        allowed = Permissions(allow_code, trust_code)
        made = draft(file, parents or [], base, task or [], include or [], allowed, from_)
        text, notes = made.text, made.notes
        what = "see what it costs with `evomerge validate --time"
    write_output(file, text, "the search file")
    for note in notes:
        terminal.say(note)
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
    show: Annotated[
        int, typer.Option(min=0, help="print the prompts of this many documents of each task")
    ] = 0,
    as_json: options.JsonOption = False,
) -> None:
    """Check a search file: parents, tasks, metrics, documents, memory."""
    terminal.say(f"checking {file}, its parents and tasks")
    from evomerge.api.validate import check
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
    terminal.print_examples(validation.prompts(show) if show else ())
    if time:
        terminal.print_values(validation.estimate(terminal.say).in_words())
    terminal.warn(validation.warnings)
    terminal.say(f"{file} is valid")


def search(
    file: options.FileArgument,
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="new folder for the run")],
    resume: Annotated[
        bool,
        typer.Option("--resume", help="if the folder holds this search already, go on with it"),
    ] = False,
    candidates: options.CandidatesOption = None,
    set_: options.SetOption = None,
    allow_benchmarks: options.AllowBenchmarksOption = False,
    allow_code: options.AllowCodeOption = False,
    trust_code: options.TrustCodeOption = False,
    track: options.TrackOption = None,
) -> None:
    """Start a search; with --resume start or continue, whichever it is."""
    _check_tracker(track)
    terminal.say(f"checking {file}, its parents and tasks")
    from evomerge.api.search import start
    from evomerge.config.schema import read
    from evomerge.problem.preflight import warnings

    allowed = Permissions(allow_code, trust_code)

    def warn(problem: Problem) -> None:
        terminal.warn(warnings(problem, allow_benchmarks))

    data = read(file, set_)
    _run(start(data, file, run, candidates, allowed, warn=warn, resume=resume), track)


def resume(
    directory: options.RunFolderArgument,
    candidates: options.CandidatesOption = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, help="largest number of working hours, over all sessions"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="number of candidates without a better one, at which to end"),
    ] = None,
    target: Annotated[
        float | None, typer.Option(help="fitness on the search documents at which to end, e.g. 0.9")
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="run elsewhere in this session, e.g. executor.kind=processes",
        ),
    ] = None,
    allow_code: options.AllowCodeOption = False,
    trust_code: options.TrustCodeOption = False,
    track: options.TrackOption = None,
) -> None:
    """Go on with a search, with a larger budget or other workers."""
    from evomerge.api.search import go_on

    _check_tracker(track)
    bounds = {"candidates": candidates, "hours": hours, "patience": patience, "target": target}
    allowed = Permissions(allow_code, trust_code)
    _run(go_on(RunFolder(directory), bounds, set_ or [], allowed), track)


def stop(directory: options.RunFolderArgument) -> None:
    """End a search early: its winner is chosen and tested."""
    run = RunFolder(directory)
    run.ask_to_stop()
    terminal.say(
        f"the search in {run.path} ends after the candidates that are being scored and the final "
        f"scores; `evomerge status {shlex.quote(str(run.path))} --watch` shows it"
    )


def _check_tracker(tracker: options.Tracker | None) -> None:
    if tracker is not None:
        from evomerge.api.followers import check_installed

        check_installed(tracker)


def _run(opened: OpenRun, tracker: options.Tracker | None) -> None:
    """Run a search with a display, and say what came out of it."""
    from evomerge.api.followers import tracked
    from evomerge.cli.live import SearchDisplay, named
    from evomerge.report.view import View
    from evomerge.run.history import History
    from evomerge.searching.run import run_search

    run, problem, bounds = opened
    quoted = shlex.quote(str(run.path))
    display = SearchDisplay(opened.candidates, problem.ranking, History(run.events()))
    try:
        with display.begin(), tracked(tracker, run, problem.ranking, terminal.say) as trackers:
            winner = run_search(problem, run, bounds, [display.observe, *trackers])
    except KeyboardInterrupt as signal:
        how = "terminated" if isinstance(signal, Terminated) else "interrupted"
        terminal.say(f"{how}; nothing is lost, continue with `evomerge resume {quoted}`")
        raise
    view = View.of(run)
    history = view.history
    terminal.print_standings(view.table)
    terminal.print_kept(view.kept)
    terminal.say(view.verdict.text)
    terminal.say_why_not_in_mergekit(run)
    what = f"the winner is {named(history, winner.number)}; export it with"
    if history.front:
        numbers = ", ".join(str(member.number) for member in history.front)
        what = (
            f"the front is {numbers}, its knee {winner.number}; export any of them by --candidate, "
            "the knee with"
        )
    if run.stop_file.exists():
        terminal.say(f"stopped as asked; `evomerge resume {quoted}` goes on with the search")
    terminal.say(
        f"{what} `evomerge export {quoted} --out MODEL`, and see what was found with `evomerge "
        f"report {quoted}`"
    )
