"""The commands about a run: status, results as tables, CSV and LaTeX, report, export, push."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from evomerge.cli import options, terminal
from evomerge.errors import InputError, listed, not_written, printable, without_controls
from evomerge.run.atomic import write_output
from evomerge.run.folder import RunFolder
from evomerge.words import duration, size_text

if TYPE_CHECKING:
    from evomerge.report.view import View

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
"""How a text begins that a spreadsheet takes for a formula; it reads wide forms as plain ones."""

_LATEX = str.maketrans(
    {sign: rf"\{sign}" for sign in "&%$#_{}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)


def status(
    directory: options.RunFolderArgument,
    as_json: options.JsonOption = False,
    watch: Annotated[
        bool, typer.Option("--watch", "--follow", help="refresh until the search ends")
    ] = False,
) -> None:
    """Say how far a search is."""
    from evomerge.cli.live import news, redraw
    from evomerge.report.facts import progress

    if watch and not as_json and terminal.out.is_terminal:
        redraw(directory)
        return
    for facts in news(directory) if watch else [progress(RunFolder(directory))]:
        if as_json:
            terminal.print_json(facts, in_a_line=watch)
        else:
            terminal.print_values(facts.in_words())
            sys.stdout.flush()


def results(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="folders of runs")],
    csv_: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="write CSV")] = None,
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
    from evomerge.report.facts import best_rows
    from evomerge.report.view import View, run_rows, runs_in_words

    outputs = {"--csv": csv_, "--json": as_json, "--latex": as_latex, "--picture": picture}
    if len(names := [name for name, value in outputs.items() if value]) > 1:
        raise InputError(f"{listed(names)} are {len(names)} outputs of one command; give one.")
    if len(runs) > 1 and (every, top, documents) != (False, None, None):
        raise InputError(
            f"--all, --top and --documents are for one run, but {len(runs)} are given; give one."
        )
    if picture is not None:
        if picture.suffix not in (".svg", ".pdf", ".png"):
            raise InputError(f"--picture is {picture}; its name must end in .svg, .pdf or .png.")
        from evomerge.api.run import plot_results

        try:
            plot_results(runs).savefig(picture, format=picture.suffix[1:])
        except OSError as error:
            raise not_written(f"--picture {picture}", error, "give another file") from error
        terminal.say(f"wrote {picture}")
        return
    answer: Any
    rows: Sequence[dict[str, Any]]
    if len(runs) > 1:
        rows = answer = run_rows(runs)
        tables = [(*runs_in_words(answer), "means over seeds, with 95 % intervals")]
    else:
        view = View.of(RunFolder(runs[0]))
        if documents is not None:
            by_split: dict[str, Any] = dict(view.record.splits.items())
            searched = by_split["search"]  # what else is tested, the command of lm_eval leaves out
            ids = {task: ids for task, ids in by_split[documents].items() if task in searched}
            sys.stdout.write(json.dumps(ids) + "\n")
            return
        rows = view.candidates() if top is None else best_rows(view.candidates(), top)
        answer = _run_answer(view, rows)
        parts = [*view.table.tables(), *(measure.table() for measure in view.kept)]
        tables = [(table.heads, table.texts, table.title) for table in parts]
    if csv_ is not None:
        write_csv(rows, csv_)
        terminal.say(f"wrote {len(rows)} rows to {csv_}")
    elif as_json:
        terminal.print_json(answer)
    elif as_latex:
        sys.stdout.write("".join(latex_table(*table) for table in tables))
    elif len(runs) > 1:
        terminal.print_table(*tables[0])
    else:
        _print_run(view, rows if every or top is not None else None)


def _run_answer(view: View, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    from evomerge.report.papers import papers_of

    winner = view.history.winner
    return {
        "candidates": rows,
        "winner": winner.number if winner else None,
        "standings": view.table.to_dict(),
        "also": [measure.to_dict() for measure in view.kept],
        "times": {phase: asdict(time) for phase, time in view.run.timings.spent().items()},
        "lm_eval": view.stock_command,
        "not_in_mergekit": view.run.why_not_in_mergekit,
        "papers": [paper._asdict() for paper in papers_of(view)],
    }


def _print_run(view: View, rows: Sequence[dict[str, Any]] | None) -> None:
    from evomerge.evaluation.tasks.info import sampling_note
    from evomerge.report.facts import brief_rows, progress
    from evomerge.report.papers import papers_of

    if view.history.finished:
        terminal.print_standings(view.table)
        terminal.print_kept(view.kept)
    terminal.say(view.verdict.text)
    if rows is not None:
        terminal.print_rows(brief_rows(rows, view.ranking.objectives), "candidate")
        terminal.say("--csv and --json have more columns: the scores of each split and the genes")
    if view.history.winner is not None and (command := view.stock_command) is not None:
        terminal.say(
            "the test score of the model exported to MODEL_DIR (a whole path), by lm-eval itself:"
        )
        terminal.say(command, unbroken=True)
        if note := sampling_note(view.record.sampled):
            terminal.say(note)
    terminal.say_why_not_in_mergekit(view.run)
    if papers := papers_of(view):
        cited = "; ".join(paper.text for paper in papers)
        terminal.say(f"to cite (docs/how-to/cite.md): {cited}")
    if "go_on" in (state := progress(view.run)):
        terminal.say(f"the search is not at its end; `{state['go_on']}` goes on with it")
    if spent := view.run.timings.spent():
        times = ", ".join(f"{phase} {time.text}" for phase, time in spent.items())
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


def export(
    directory: options.RunFolderArgument,
    out: options.OutOption,
    candidate: Annotated[
        str, typer.Option(help="`best` (the winner, or the best so far) or a number")
    ] = "best",
    dtype: Annotated[
        str | None, typer.Option(help="dtype of the weights, if not the one that was scored")
    ] = None,
    shard_size: options.ShardSizeOption = "5GB",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace a model that evomerge wrote there before")
    ] = False,
) -> None:
    """Write a candidate as an ordinary Hugging Face checkpoint."""
    from evomerge.export.checkpoint import export_candidate

    run = RunFolder(directory)
    exported = export_candidate(run, out, candidate, dtype, shard_size, overwrite=overwrite)
    terminal.warn(exported.notes)
    terminal.say(f"wrote candidate {exported.number} to {out}")
    if exported.not_in_mergekit is not None:
        terminal.say(f"there is no mergekit_config.yml: {exported.not_in_mergekit}")


def push(
    model: Annotated[Path, typer.Argument(metavar="MODEL_DIR", help="an exported model")],
    repository: Annotated[str, typer.Argument(metavar="REPO_ID", help="org/name on the Hub")],
    private: Annotated[
        bool,
        typer.Option("--private/--public", help="an existing repository must be what this says"),
    ] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="say what would be uploaded, and upload nothing")
    ] = False,
) -> None:
    """Upload an exported model to the Hugging Face Hub."""
    from evomerge.export.hub import files_to_push, push_model

    if dry_run:
        files, left_out = files_to_push(model, repository)
        rows = [(file, size_text((model / file).stat().st_size)) for file in files]
        terminal.print_table(("file", "size"), rows)
        done = f"nothing was uploaded; without --dry-run it goes to {repository}"
    else:
        url, left_out = push_model(model, repository, private=private)
        done = f"pushed to {url}"
    for name in left_out:
        terminal.say(f"{name} was not uploaded, since it names folders of this machine")
    terminal.say(done)


def latex_table(heads: Sequence[str], rows: Iterable[Sequence[str]], title: str) -> str:
    """Return a table for LaTeX, under a comment; it needs the package booktabs."""

    def line(cells: Sequence[str]) -> str:
        texts = (printable(text, len(text)).translate(_LATEX) for text in cells)
        return re.sub(r"(?<![^ \[])-(?=\d)", "$-$", " & ".join(texts)) + r" \\"

    columns = "l" + "r" * (len(heads) - 1)
    parts = [rf"% {printable(title)}", rf"\begin{{tabular}}{{{columns}}}", r"\toprule", line(heads)]
    parts += [r"\midrule", *map(line, rows), r"\bottomrule", r"\end{tabular}"]
    return "\n".join(parts) + "\n"


def _harmless(cell: Any) -> Any:
    """Return a cell that a spreadsheet and a terminal show and do not run."""
    if not isinstance(cell, str):
        return cell
    mark = "'" if cell.startswith(_FORMULA) and not _is_number(cell) else ""
    return mark + without_controls(cell)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def write_csv(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write rows as CSV with a header line. InputError: the file cannot be written.

    A text that a spreadsheet would take for a formula gets an apostrophe before it (OWASP, CSV
    injection). Texts of numbers stay as they are. Control characters are replaced.
    """
    text = io.StringIO(newline="")
    names = list(rows[0]) if rows else ["candidate"]
    writer = csv.writer(text)
    writer.writerow(map(_harmless, names))
    writer.writerows([_harmless(row[name]) for name in names] for row in rows)
    write_output(path, text.getvalue(), "--csv")
