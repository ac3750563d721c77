"""The report of a run (`evomerge report`): one HTML page that needs no other files.

`page.html.jinja` is the page; it shows a `View`, and the sentences that are made here. Pictures are
SVG made with matplotlib, which need no script and can be printed.
"""

import shlex
from collections import Counter
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from evomerge.errors import without_controls
from evomerge.evaluation.tasks.info import sampling_note
from evomerge.report.facts import candidate_rows, filled, progress, rows_in_per_cent
from evomerge.report.lost import lost_documents
from evomerge.report.pictures import PALETTE, inline_svg
from evomerge.report.recipe_picture import path_text
from evomerge.report.view import View
from evomerge.run.atomic import write_output
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import History
from evomerge.scores import SPLITS, Example, Failure, Split
from evomerge.words import duration, short_names, size_text


def write_page(run: RunFolder, target: Path) -> None:
    """Write the report of a run to a file in one step; InputError: it cannot be written."""
    write_output(target, page(run), "out")


def _without_controls(value: Any) -> Any:
    """Return what a template shows of a value: texts of a run lose control characters."""
    return value if hasattr(value, "__html__") else without_controls(str(value))


@cache
def _template() -> Template:
    templates = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_without_controls,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return templates.get_template("page.html.jinja")


def page(run: RunFolder) -> str:
    """Return the page of a run as HTML."""
    view = View.of(run)
    history, objectives = view.history, view.ranking.objectives

    def svg(name: str, caption: str) -> str:
        return inline_svg(name, view.figures[name], caption)

    outcomes = (item.outcomes.get("search") for item in history.candidates)
    reasons = Counter((item.stage, item.reason) for item in outcomes if isinstance(item, Failure))
    labels = enumerate(row.label for row in view.table.rows)
    marked = [i for i, label in labels if label == "searched" or label.endswith("(knee)")]
    rows = filled(rows_in_per_cent(candidate_rows(history, objectives), objectives))
    return _template().render(
        palette=PALETTE,
        view=view,
        svg=svg,
        progress=progress(run),
        marked=marked,
        path_text=path_text,
        reasons=reasons.most_common(10),
        lost=lost_documents(view),
        answers=_answers(view),
        documents=_documents(history),
        duration=duration,
        size_text=size_text,
        directory=shlex.quote(str(run.path)),
        sampling_note=sampling_note(view.record.sampled),
        parents=short_names(view.record.parents),
        search_file=(run.path / CONFIG).read_text(encoding="utf-8"),
        candidates=[{name: cell for name, cell in row.items() if name != "digest"} for row in rows],
    )


def _documents(history: History) -> dict[Split, int]:
    """Return split -> how many documents were scored on it."""
    counts = dict.fromkeys(SPLITS, 0)
    for candidate, split in product(history.candidates, SPLITS):
        if scores := candidate.scores(split):
            counts[split] += sum(scores.fidelity.values())
    return counts


def _answers(view: View) -> list[list[tuple[str, Example]]]:
    """Return the answers of the baselines and the best candidate, by document: name and answer."""
    baselines = view.history.baselines
    names = short_names(one.name for one in baselines)
    answers: dict[tuple[str, int], list[tuple[str, Example]]] = {}
    models = {one.number: one for one in [*baselines, *([view.best] if view.best else [])]}
    for candidate in models.values():
        scores = candidate.scores("test") or candidate.scores("search")
        label = "searched" if candidate is view.best else names[candidate.name]
        for one in scores.examples if scores else ():
            answers.setdefault((one.task, one.document), []).append((label, one))
    return list(answers.values())
