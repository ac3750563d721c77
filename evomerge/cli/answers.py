"""The commands that show runs: status, results, report."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from evomerge.cli import terminal
from evomerge.cli.options import JsonOption, RunFolderArgument, SplitName
from evomerge.run.folder import RunFolder


def status(
    directory: RunFolderArgument,
    as_json: JsonOption = False,
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
        SplitName | None, typer.Option(help="print only a split's document ids, for lm_eval")
    ] = None,
    as_json: JsonOption = False,
    as_latex: Annotated[bool, typer.Option("--latex", help="print tables for LaTeX")] = False,
    picture: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="draw the best fitness so far (.svg, .pdf, .png)"),
    ] = None,
) -> None:
    """Compare the merges of a run with its parents, or several runs."""
    from dataclasses import asdict

    from evomerge.cli.rows import best_rows, brief_rows, latex_table, write_csv
    from evomerge.errors import InputError
    from evomerge.evaluation.tasks.stock import sampling_note
    from evomerge.report.progress import progress
    from evomerge.report.rows import candidate_rows
    from evomerge.report.view import View
    from evomerge.report.words import duration
    from evomerge.searching.ranking import measured

    if len(runs) > 1 and (top, documents) != (None, None):
        raise InputError(
            f"--top and --documents are for one run, but {len(runs)} are given; give one, or "
            "leave these options out."
        )
    if picture is not None:
        _draw(runs, picture)
        return
    if len(runs) > 1:
        _compare_runs(runs, csv, as_json, as_latex)
        return
    view = View.of(run := RunFolder(runs[0]))
    if documents is not None:
        by_split: dict[str, Any] = dict(view.config.run_documents.items())
        sys.stdout.write(json.dumps(by_split[documents]) + "\n")
        return
    command, winner, spent = view.stock_command, view.history.winner, run.timings.spent()
    rows = candidate_rows(view.history, measured(view.ranking), view.genes)
    rows = rows if top is None else best_rows(rows, top)
    if csv is not None:
        write_csv(rows, csv)
        terminal.say(f"wrote {len(rows)} rows to {csv}")
        return
    if as_json:
        terminal.print_json(
            {
                "candidates": rows,
                "winner": winner.number if winner else None,
                "standings": view.table.to_dict(),
                "times": {phase: asdict(item) for phase, item in spent.items()},
                "lm_eval": command,
                "not_in_mergekit": run.why_not_in_mergekit,
            }
        )
        return
    if as_latex:
        for table in view.table.tables() if view.table.columns else ():
            sys.stdout.write(latex_table(table.heads, table.texts, table.title))
        return
    if view.history.told:
        terminal.print_standings(view.table)
    terminal.say(view.verdict.text)
    if every or top is not None:
        terminal.print_rows(brief_rows(rows, view.ranking.objectives), "candidate")
        terminal.say("--csv and --json have more columns: the scores of each split and the genes")
    if command is not None and winner is not None:
        terminal.say(
            "the test score of an exported model, by lm-eval itself (MODEL_DIR is the folder):"
        )
        terminal.say(command, unbroken=True)
        if note := sampling_note(view.frozen.sampled):
            terminal.say(note)
    terminal.say_why_not_in_mergekit(run)
    if "go_on" in (state := progress(run)):
        terminal.say(f"the search is not at its end; `{state['go_on']}` goes on with it")
    if spent:
        times = ", ".join(f"{phase} {item.text}" for phase, item in spent.items())
        terminal.say(
            f"seconds of candidates (CPU seconds in brackets): {times}; "
            f"{duration(3600 * run.timings.hours())} in all"
        )


def _draw(runs: list[Path], file: Path) -> None:
    from evomerge.api.run import plot_results
    from evomerge.errors import InputError, not_written

    figure = plot_results(runs)
    try:
        figure.savefig(file, format=file.suffix[1:] or "png")
    except ValueError as error:  # it names the formats that there are
        raise InputError(f"--picture {file} cannot be drawn: {error}.") from error
    except OSError as error:
        raise not_written(f"--picture {file}", error, "give another file") from error
    terminal.say(f"wrote {file}")


def _compare_runs(runs: list[Path], csv: Path | None, as_json: bool, as_latex: bool) -> None:
    from evomerge.cli.rows import latex_table, runs_in_words, write_csv
    from evomerge.report.rows import run_rows

    rows, title = run_rows(runs), "means over seeds, with 95 % intervals"
    if csv is not None:
        write_csv(rows, csv)
        terminal.say(f"wrote {len(rows)} rows to {csv}")
    elif as_json:
        terminal.print_json(rows)
    elif as_latex:
        sys.stdout.write(latex_table(*runs_in_words(rows), title))
    else:
        terminal.print_table(*runs_in_words(rows), title=title)


def report(
    directory: RunFolderArgument,
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
