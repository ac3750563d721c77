"""The commands that show runs: status, results, report."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli import options, terminal
from evomerge.run.folder import RunFolder

if TYPE_CHECKING:
    from evomerge.report.view import View


def status(
    directory: options.RunFolderArgument,
    as_json: options.JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", "--follow", help="refresh until the search ends")
    ] = False,
) -> None:
    """Say how far a search is."""
    from evomerge.cli.live import news, print_progress
    from evomerge.cli.live import watch as watch_run
    from evomerge.report.progress import progress

    run = RunFolder(directory)
    if watch and as_json:
        for values in news(directory):
            terminal.print_json(values, in_a_line=True)
    elif watch:
        watch_run(directory)
    elif as_json:
        terminal.print_json(progress(run))
    else:
        print_progress(progress(run))


def results(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs")],
    csv: Annotated[Path | None, typer.Option(metavar="FILE", help="write CSV")] = None,
    every: Annotated[bool, typer.Option("--all", help="print all candidates, too")] = False,
    top: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="print the N best candidates, too")
    ] = None,
    documents: Annotated[
        options.SplitName | None,
        typer.Option(help="print only a split's document ids, for lm_eval"),
    ] = None,
    as_json: options.JsonOption = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="print tables for LaTeX")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="draw the best fitness so far (.svg, .pdf, .png)"),
    ] = None,
) -> None:
    """Compare the merges of a run with its parents, or several runs."""
    from evomerge.api.run import plot_results
    from evomerge.cli.rows import best_rows, latex_table, runs_in_words, write_csv
    from evomerge.errors import InputError, listed, not_written
    from evomerge.report.rows import candidate_rows, run_rows
    from evomerge.report.view import View
    from evomerge.run.ranking import measured

    outputs = {"--csv": csv, "--json": as_json, "--latex": as_latex, "--picture": picture}
    if len(names := [name for name, value in outputs.items() if value]) > 1:
        raise InputError(f"{listed(names)} are {len(names)} outputs of one command; give one.")
    if len(runs) > 1 and (every, top, documents) != (False, None, None):
        raise InputError(
            f"--all, --top and --documents are for one run, but {len(runs)} are given; give one."
        )
    if picture is not None:
        if picture.suffix not in (".svg", ".pdf", ".png"):
            raise InputError(f"--picture is {picture}; its name must end in .svg, .pdf or .png.")
        try:
            plot_results(runs).savefig(picture, format=picture.suffix[1:])
        except OSError as error:
            raise not_written(f"--picture {picture}", error, "give another file") from error
        terminal.say(f"wrote {picture}")
        return
    answer: Any
    if len(runs) > 1:
        rows = answer = run_rows(runs)
        tables = [(*runs_in_words(rows), "means over seeds, with 95 % intervals")]
    else:
        view = View.of(RunFolder(runs[0]))
        if documents is not None:
            by_split: dict[str, Any] = dict(view.record.splits.items())
            sys.stdout.write(json.dumps(by_split[documents]) + "\n")
            return
        rows = candidate_rows(view.history, measured(view.ranking), view.genes)
        rows = rows if top is None else best_rows(rows, top)
        answer = _run_answer(view, rows)
        tables = [(item.heads, item.texts, item.title) for item in view.table.tables()]
    if csv is not None:
        write_csv(rows, csv)
        terminal.say(f"wrote {len(rows)} rows to {csv}")
    elif as_json:
        terminal.print_json(answer)
    elif as_latex:
        sys.stdout.write("".join(latex_table(*table) for table in tables))
    elif len(runs) > 1:
        terminal.print_table(*tables[0])
    else:
        _print_run(view, rows if every or top is not None else None)


def _run_answer(view: View, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from dataclasses import asdict

    winner = view.history.winner
    return {
        "candidates": rows,
        "winner": winner.number if winner else None,
        "standings": view.table.to_dict(),
        "times": {phase: asdict(item) for phase, item in view.run.timings.spent().items()},
        "lm_eval": view.stock_command,
        "not_in_mergekit": view.run.why_not_in_mergekit,
    }


def _print_run(view: View, rows: Sequence[dict[str, Any]] | None) -> None:
    from evomerge.cli.rows import brief_rows
    from evomerge.evaluation.tasks.stock import sampling_note
    from evomerge.report.progress import progress
    from evomerge.words import duration

    if view.history.told:
        terminal.print_standings(view.table)
    terminal.say(view.verdict.text)
    if rows is not None:
        terminal.print_rows(brief_rows(rows, view.ranking.objectives), "candidate")
        terminal.say("--csv and --json have more columns: the scores of each split and the genes")
    if view.history.winner is not None and (command := view.stock_command) is not None:
        terminal.say("the test score of the model exported to MODEL_DIR, by lm-eval itself:")
        terminal.say(command, unbroken=True)
        if note := sampling_note(view.record.sampled):
            terminal.say(note)
    terminal.say_why_not_in_mergekit(view.run)
    if "go_on" in (state := progress(view.run)):
        terminal.say(f"the search is not at its end; `{state['go_on']}` goes on with it")
    if spent := view.run.timings.spent():
        times = ", ".join(f"{phase} {item.text}" for phase, item in spent.items())
        terminal.say(
            f"seconds of candidates (CPU seconds in brackets): {times}; "
            f"{duration(3600 * view.run.timings.hours())} in all"
        )


def report(
    directory: options.RunFolderArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE.html", help="the page; else report.html in DIR")
    ] = None,
) -> None:
    """Write the run as one HTML page."""
    from evomerge.report.page import write_page

    run = RunFolder(directory)
    target = out or run.path / "report.html"
    write_page(run, target)
    terminal.say(f"wrote {target}")
