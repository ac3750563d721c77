"""How did it go? The course of the search, its failures, and which genes matter."""

from __future__ import annotations

from collections import Counter

from evomerge.report.importance import gene_importance
from evomerge.report.markup import paragraph, picture, table
from evomerge.report.pictures import best_so_far, importance_bars, spread_of_generations
from evomerge.report.view import View
from evomerge.scores import Failure

_MOST_REASONS = 10


def course(view: View) -> list[str]:
    """Return the section."""
    history = view.history
    estimates = sum(item.is_estimate for item in history.candidates)
    parts = [
        "<h2>How did it go?</h2>",
        picture("course", best_so_far(history), "Fitness of each candidate on search documents."),
    ]
    if estimates:
        parts.append(
            paragraph(
                f"{estimates} candidates were scored on some of the search documents. Their "
                "fitness is an estimate, and the table of candidates has its standard error. The "
                "best candidate and the finalists are not among them: these were scored on all "
                "search documents."
            )
        )
    spread = spread_of_generations(history)
    if spread is not None:
        parts.append(picture("spread", spread, "Fitness in each generation."))
    importance = gene_importance(history, view.gene_labels)
    if importance:
        parts.append(
            picture(
                "importance",
                importance_bars(importance),
                "The genes that the fitness follows most closely. A search tries good values more "
                "often, so this describes its candidates; it is no proof of a cause.",
            )
        )
    reasons = Counter(
        (outcome.stage, outcome.reason)
        for item in history.candidates
        if isinstance(outcome := item.outcomes.get("search"), Failure)
    )
    if reasons:
        rows = [(c, stage, reason) for (stage, reason), c in reasons.most_common(_MOST_REASONS)]
        heads = ("candidates", "failed in", "reason")
        parts += ["<h3>Failures</h3>", table(heads, rows)]
        if len(reasons) > _MOST_REASONS:
            parts.append(paragraph(f"{len(reasons) - _MOST_REASONS} more reasons are left out."))
    return parts
