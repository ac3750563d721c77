"""The report's section with documents as people read them: prompt, target, and models' answers."""

from __future__ import annotations

from evomerge.report.markup import text
from evomerge.report.names import short_names
from evomerge.run.history import Candidate, History
from evomerge.scores import Example


def examples_section(history: History, best: Candidate | None) -> list[str]:
    """Return the section as HTML; empty if the journal has no examples.

    Args:
        history: the state of the run.
        best: the best candidate, shown beside the baselines.
    """
    names = short_names(item.name for item in history.baselines)
    answers: dict[tuple[str, int], list[tuple[str, Example]]] = {}
    shown = {item.number: item for item in [*history.baselines, *([best] if best else [])]}
    for candidate in shown.values():
        scores = candidate.scores("test") or candidate.scores("search")
        label = "searched" if candidate is best else names[candidate.name]
        for item in scores.examples if scores else ():
            answers.setdefault((item.task, item.document), []).append((label, item))
    if not answers:
        return []
    rows = "".join(row for of_document in answers.values() for row in _rows(of_document))
    return [
        "<h2>Examples</h2>",
        "<p>The first documents of each task, with the models' answers.</p>",
        '<div class="scroll"><table class="examples">'
        "<tr><th>document</th><th>model</th><th>answer</th><th>values</th></tr>"
        f"{rows}</table></div>",
    ]


def _rows(answers: list[tuple[str, Example]]) -> list[str]:
    """Return the rows of one document, one for each model."""
    first = answers[0][1]
    name = text(f"{first.task}, document {first.document}")
    document = (
        f'<td rowspan="{len(answers)}">{name}<pre>{text(first.prompt)}</pre>'
        f"target<pre>{text(first.target)}</pre></td>"
    )
    rows = []
    for number, (label, item) in enumerate(answers):
        values = ", ".join(f"{metric} {value:g}" for metric, value in item.values.items())
        parsed = "" if item.parsed == item.answer else f"parsed<pre>{text(item.parsed)}</pre>"
        rows.append(
            f"<tr>{'' if number else document}<td>{text(label)}</td>"
            f"<td><pre>{text(item.answer)}</pre>{parsed}</td>"
            f"<td>{text(values)}</td></tr>"
        )
    return rows
