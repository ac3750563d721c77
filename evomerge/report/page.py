"""The report of a run (`evomerge report`): one HTML page that needs no other files.

`page.html.jinja` is the page; it shows a `View`, and the tables and sentences that are made here.
Its pictures are SVG made with matplotlib: a page has 0.1 to 0.5 MB, needs no script, and can be
printed. Plotly would add 4.5 MB of script to each page.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from evomerge.errors import not_written, without_controls
from evomerge.report.documents import answers
from evomerge.report.figures import PALETTE, inline_svg
from evomerge.report.progress import progress
from evomerge.report.recipe_picture import path_text
from evomerge.report.reproduce import lm_eval_command
from evomerge.report.rows import candidate_rows
from evomerge.report.standings import Standings
from evomerge.report.verdict import front_rows, main_column
from evomerge.report.view import View
from evomerge.report.words import (
    duration,
    sampling_note,
    setting_lines,
    short_names,
    short_scores,
    size_text,
)
from evomerge.run.atomic import check_output, replace_text
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.scores import SPLITS, Failure, Split

_MOST_REASONS = 10


class PageTable(NamedTuple):
    """A table of the page: heads, rows, and the index of a row that stands out.

    A cell that is a pair of texts shows the second one small.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[object]]
    marked: int | None = None


def write_page(run: RunFolder, target: Path) -> None:
    """Write the page of a run as one step; an InputError says that this is impossible."""
    check_output(target, "--out")
    content = page(run)
    try:
        replace_text(target, content)
    except OSError as error:
        raise not_written(f"--out {target}", error, "give another file") from error


def page(run: RunFolder) -> str:
    """Return the page of a run as HTML."""
    view = View.of(run)

    def svg(name: str, caption: str) -> str:
        return inline_svg(name, view.figures[name], caption)

    values = _results(view) | _finding(view) | _documents(view) | _cost(view) | _repetition(view)
    template = _templates().get_template("page.html.jinja")
    return template.render(view=view, svg=svg, palette=PALETTE, progress=progress(run), **values)


@cache
def _templates() -> Environment:
    """Return what reads templates: texts of a run are escaped, and lose control characters."""

    def shown(value: Any) -> Any:
        return value if hasattr(value, "__html__") else without_controls(str(value))

    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=shown,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[object]]) -> PageTable | None:
    return PageTable(heads, rows) if rows else None


def _results(view: View) -> dict[str, Any]:
    """Return the scores, comparisons and settings of the models."""
    table, names, frozen = view.table, view.table.names, view.frozen
    columns = table.columns
    if table.has_front:
        short, split = short_scores(columns), table.compared_on or "search"
        scores = _scores(table, {f"{short[key]} on {split}": (split, key) for key in columns})
    else:
        scores = _scores_of(table, main_column(table))
    own = "winner" if names.get("searched") == "winner" else "searched merge"
    neighbours = front_rows(table)
    others = [column for column in columns if column != main_column(table)]
    return {
        "scores": scores,
        # A phone has no room for all scores in one table.
        "scores_by_task": {column: _scores_of(table, column) for column in others},
        "neighbours": neighbours and PageTable(*neighbours),
        "comparisons": _table(
            (f"{own} against", f"difference on {table.compared_on} documents"),
            [(names[label], item.text) for label, item in table.comparisons.items()],
        ),
        "settings": setting_lines(frozen.settings, short_names(frozen.parents | frozen.merges)),
    }


def _scores_of(table: Standings, column: str) -> PageTable:
    return _scores(table, {split: (split, column) for split in reversed(SPLITS)})


def _scores(table: Standings, columns: Mapping[str, tuple[Split, str]]) -> PageTable:
    """Return a row for each model; `columns`: head -> the split and the score that it shows."""
    rows, marked = [], None
    for index, row in enumerate(table.rows):
        cells = [table.cell(row, split, column) for split, column in columns.values()]
        rows.append([table.names[row.label], *cells])
        if row.label == "searched" or row.label.endswith("(knee)"):
            marked = index
    return PageTable(("model", *columns), rows, marked)


def _finding(view: View) -> dict[str, Any]:
    """Return what the best candidate is, in words."""
    best, recipe, config = view.best, view.recipe, view.config
    if best is None:
        return {"found": [], "path": None}
    name = view.table.names.get(best.name, best.name)
    what = "a merge that the search found" if best.label is None else f"the baseline {name}"
    which = "The winner" if view.history.winner is best else "The best so far"
    which = "The knee of the front" if view.table.has_front else which
    lines = [f"{which} is candidate {best.number}, {what}."]
    if recipe is None:
        return {"found": lines, "path": None}
    layers = list(recipe.every_layer())
    if best.label not in config.parents:
        methods = ", ".join(sorted({layer.method for layer in layers}))
        lines.append(f"Merge method: {methods}; dtype {recipe.dtype}.")
    if config.space.most_parents is not None:
        merged = {source.parent for item in layers for source in item.sources}
        pool = [parent for parent in config.parents if parent != config.base]
        used = [view.names[parent] for parent in pool if parent in merged]
        count = f"Of the {len(pool)} parents, it merges {len(used)}"
        lines.append(f"{count}: {', '.join(used)}.")
    has_path = config.space.kind != "parameters"
    return {"found": lines, "path": path_text(recipe, view.names) if has_path else None}


def _documents(view: View) -> dict[str, Any]:
    """Return the failures and the answers."""
    outcomes = (item.outcomes.get("search") for item in view.history.candidates)
    reasons = Counter((item.stage, item.reason) for item in outcomes if isinstance(item, Failure))
    return {
        "failures": _table(
            ("candidates", "failed in", "reason"),
            [(count, *reason) for reason, count in reasons.most_common(_MOST_REASONS)],
        ),
        "more_failures": max(0, len(reasons) - _MOST_REASONS),
        "answers": answers(view.history, view.best),
    }


def _cost(view: View) -> dict[str, Any]:
    """Return time, documents and memory."""
    counts: Counter[Split] = Counter()
    for item in view.history.candidates:
        for split in SPLITS:
            if scores := item.scores(split):
                counts[split] += sum(scores.fidelity.values())
    scored = ", ".join(f"{counts[split]:,} {split}" for split in SPLITS if counts[split])
    timings = view.run.timings
    time, peak = duration(3600 * timings.hours()), timings.peak()
    lines = [f"{time} of work over all sessions; documents scored: {scored or 'none'}."]
    if "process" in peak:
        sizes = [size_text(peak["process"]), "with the mapped files of the parents"]
        if "accelerator" in peak:
            sizes.append(f"and {size_text(peak['accelerator'])} of accelerators")
        lines.append(f"Peak memory of a process that scored candidates: {', '.join(sizes)}.")
    phases = [
        (
            name,
            f"{spent.seconds:,.1f}",
            "-" if (cpu := spent.cpu_seconds) is None else f"{cpu:,.1f}",
        )
        for name, spent in timings.spent().items()
    ]
    return {
        "cost": lines,
        "phases": _table(("phase of all candidates", "seconds", "CPU seconds"), phases),
    }


def _repetition(view: View) -> dict[str, Any]:
    """Return the commands that repeat search, export and scores, and what they need."""
    lm_eval = lm_eval_command(view.run, view.config, view.best)
    parents = view.frozen.parents
    names = short_names(parents)
    rows = candidate_rows(view.history, view.ranking.objectives)
    heads = [name for name in rows[0] if name != "digest"] if rows else ["candidate"]
    text = (view.run.path / CONFIG).read_text(encoding="utf-8")
    return {
        "commands": [
            "# the text under `search file` below, as search.yaml",
            "evomerge search search.yaml --run runs/again",
            "# the best candidate as an ordinary checkpoint",
            f"evomerge export {shlex.quote(str(view.run.path))} --out MODEL_DIR",
            *(["# its test score, by lm-eval itself", lm_eval] if lm_eval else []),
        ],
        "sampling_note": sampling_note(view.frozen.sampled),
        "fingerprints": {names[parent]: digest for parent, digest in parents.items()},
        "search_file": text.split("\nfrozen:")[0],  # without what was added at the start
        "candidates": PageTable(heads, [[_cell(row[name]) for name in heads] for row in rows]),
    }


def _cell(value: Any) -> str:
    if value is None or value is False:
        return ""
    return f"{value:.4f}" if isinstance(value, float) else str(value)
