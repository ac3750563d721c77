"""The commands that run a search: start one, continue one."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from evomerge.cli.options import (
    AllowBenchmarksOption,
    AllowCodeOption,
    AllowPickleOption,
    CandidatesOption,
    FileArgument,
    RunFolderArgument,
    SetOption,
    TrackOption,
    TrustCodeOption,
    consent_of,
)

if TYPE_CHECKING:
    from evomerge.run.folder import RunFolder
    from evomerge.setup.checked import CheckedSearch


def search(
    file: FileArgument,
    run: Annotated[Path, typer.Option("--run", metavar="DIR", help="new folder for the run")],
    candidates: CandidatesOption = None,
    set_: SetOption = None,
    allow_benchmarks: AllowBenchmarksOption = False,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    trust_code: TrustCodeOption = False,
    track: TrackOption = None,
) -> None:
    """Start a search."""
    from evomerge.cli.terminal import busy, warn
    from evomerge.config.schema import load, read, refuse_frozen
    from evomerge.run.folder import RunFolder
    from evomerge.setup import stages
    from evomerge.setup.checked import Permissions
    from evomerge.setup.preflight import warnings
    from evomerge.setup.runs import begin, prepare

    _check_tracker(track)
    RunFolder.check_free(run)
    refuse_frozen(data := read(file, set_), file)
    allowed = Permissions(
        allow_pickle=allow_pickle, allow_code=allow_code, consent=consent_of(trust_code)
    )
    if stages.is_staged(data):
        if candidates:
            data = stages.with_candidates(data, candidates)
        with busy(f"checking {file}"):
            searches = stages.start(data, file, run, **allowed)
        warn([note for checked in searches for note in warnings(checked, allow_benchmarks)])
        stages.run_stages(run, lambda stage, checked: _run(stage, checked, {}, track), **allowed)
        return
    overrides = [*(set_ or []), *([f"budget.candidates={candidates}"] if candidates else [])]
    with busy(f"checking {file}"):
        parsed = load(file, overrides)
        checked = prepare(parsed, file.parent, **allowed)
        notes = warnings(checked, allow_benchmarks)
    warn(notes)
    with busy("creating the run"):
        started, checked = begin(run, checked)
    _run(started, checked, {}, track)


def resume(
    directory: RunFolderArgument,
    candidates: CandidatesOption = None,
    hours: Annotated[
        float | None,
        typer.Option(min=0.001, help="largest number of working hours, over all sessions"),
    ] = None,
    patience: Annotated[
        int | None,
        typer.Option(min=1, help="number of candidates without a better one, at which to end"),
    ] = None,
    target: Annotated[
        float | None,
        typer.Option(help="fitness on the search documents at which to end"),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY.PATH=VALUE",
            help="run elsewhere in this session, e.g. executor.kind=processes",
        ),
    ] = None,
    allow_pickle: AllowPickleOption = False,
    allow_code: AllowCodeOption = False,
    trust_code: TrustCodeOption = False,
    truncate: Annotated[
        bool,
        typer.Option(
            "--truncate",
            help="cut a damaged journal before its first bad line; the damaged file is kept",
        ),
    ] = False,
    track: TrackOption = None,
) -> None:
    """Continue a search, with a larger budget or with other workers if you say so."""
    from evomerge.cli import terminal
    from evomerge.errors import InputError
    from evomerge.run.atomic import check_run_folder
    from evomerge.run.folder import STAGES, RunFolder
    from evomerge.run.journal import truncate as cut_journal
    from evomerge.setup import stages
    from evomerge.setup.checked import Permissions
    from evomerge.setup.runs import check_budget, continued

    _check_tracker(track)
    allowed = Permissions(
        allow_pickle=allow_pickle, allow_code=allow_code, consent=consent_of(trust_code)
    )
    if (directory / STAGES).is_file():
        if candidates or hours or patience or target is not None or set_ or truncate:
            raise InputError(
                f"{directory} is a search in stages, but --candidates, --hours, --patience, "
                "--target, --set and --truncate change one stage; give the folder of a stage, for "
                f"example {directory / 'stage-1'}."
            )
        check_run_folder(directory)
        stages.run_stages(
            directory, lambda stage, checked: _run(stage, checked, {}, track), **allowed
        )
        return
    run = RunFolder(directory)
    check_run_folder(run.path)
    if truncate:
        cut = cut_journal(run.journal_path)
        terminal.say("the journal is not damaged" if cut is None else str(cut))
    new_budget = {
        "candidates": candidates,
        "hours": hours,
        "patience": patience,
        "target": target,
    }
    given = {name: value for name, value in new_budget.items() if value is not None}
    check_budget(run, given)
    _run(run, continued(run, set_ or [], **allowed), given, track)


def _check_tracker(name: str | None) -> None:
    """Check that a tracker exists and is installed, before anything is computed.

    Raises:
        InputError: there is no such tracker, or it is not installed.
    """
    from evomerge.report.trackers.protocol import find_tracker

    if name is not None:
        find_tracker(name)


def _run(
    run: RunFolder, checked: CheckedSearch, new_budget: dict[str, float], tracker: str | None
) -> None:
    """Run a search to its end with a display, then print the standings and the winner.

    Args:
        run: the run folder.
        checked: the checked search of this run.
        new_budget: bounds of the budget that replace earlier ones, by name.
        tracker: name of the tracker that the search is logged to; None for no tracker.
    """
    from evomerge.cli import terminal
    from evomerge.cli.live import SearchDisplay, named
    from evomerge.errors import Terminated
    from evomerge.report.documents import doubt_about_winner
    from evomerge.report.standings import standings
    from evomerge.report.trackers.follower import tracked
    from evomerge.report.verdict import verdict
    from evomerge.run.history import History
    from evomerge.setup.search import run_search

    total = new_budget.get("candidates") or checked.config.budget.candidates
    before = History(run.events())
    quoted = shlex.quote(str(run.path))
    display = SearchDisplay(int(total) if total else None, checked.ranking, before)
    try:
        with (
            display.shown(),
            tracked(tracker, run, checked.ranking, terminal.say) as trackers,
        ):
            followers = [display.observe, display.warn_of_baselines, *trackers]
            winner = run_search(checked, run, new_budget, followers)
    except KeyboardInterrupt as signal:
        how = "terminated" if isinstance(signal, Terminated) else "interrupted"
        terminal.say(f"{how}; nothing is lost, continue with `evomerge resume {quoted}`")
        raise
    history = History(run.events())
    found = standings(history, checked.ranking)
    terminal.print_standings(found)
    terminal.say(verdict(found, winner).text)
    doubt = doubt_about_winner(history)
    terminal.warn([] if doubt is None else [doubt])
    if (reason := run.why_not_in_mergekit) is not None:
        terminal.say(f"there is no best.mergekit.yaml: {reason}")
    what = f"the winner is {named(history, winner.number)}; export it with"
    if history.front:
        numbers = ", ".join(str(item.number) for item in history.front)
        what = (
            f"the front is {numbers}, its knee {winner.number}; export any of them by --candidate, "
            "the knee with"
        )
    terminal.say(
        f"{what} `evomerge export {quoted} --out MODEL`, and see what was found with `evomerge "
        f"report {quoted}`"
    )
