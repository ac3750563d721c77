"""How did it go? The course of the search, its failures, and which genes matter."""

from __future__ import annotations

from collections import Counter

from evomerge.report.markup import paragraph, picture, table
from evomerge.report.view import View
from evomerge.scores import Failure

_MOST_REASONS = 10
_FITNESS = "Fitness of each candidate on search documents."
_HYPERVOLUME = (
    "Hypervolume: the share of the box between the worst and the best values of all candidates in "
    "which some candidate of the front is better, on search documents."
)


def course(view: View) -> list[str]:
    """Return the section."""
    history = view.history
    estimates = sum(item.is_estimate for item in history.candidates)
    parts = [
        "<h2>How did it go?</h2>",
        picture(
            "course", view.figures["course"], _HYPERVOLUME if view.table.has_front else _FITNESS
        ),
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
    if "spread" in view.figures:
        parts.append(picture("spread", view.figures["spread"], "Fitness in each generation."))
    if "importance" in view.figures:
        caption = (
            "The genes that the fitness follows most closely. A search tries good values more "
            "often, so this describes its candidates; it is no proof of a cause."
        )
        parts.append(picture("importance", view.figures["importance"], caption))
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
