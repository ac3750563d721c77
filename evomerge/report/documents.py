"""What single documents show: what was answered, and what looks wrong."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.report.words import short_names
from evomerge.run.history import Candidate, History
from evomerge.scores import Example

INVALID = "[invalid]"
"""What lm-eval's filter makes of an answer that its pattern does not match."""


def answers(history: History, best: Candidate | None) -> list[list[tuple[str, Example]]]:
    """Return the answers of the baselines and the best candidate, by document: name and answer."""
    names = short_names(item.name for item in history.baselines)
    found: dict[tuple[str, int], list[tuple[str, Example]]] = {}
    shown = {item.number: item for item in [*history.baselines, *([best] if best else [])]}
    for candidate in shown.values():
        scores = candidate.scores("test") or candidate.scores("search")
        label = "searched" if candidate is best else names[candidate.name]
        for item in scores.examples if scores else ():
            found.setdefault((item.task, item.document), []).append((label, item))
    return list(found.values())


def doubt_about_baselines(history: History) -> tuple[str, tuple[Example, ...]] | None:
    """Return a warning about the baselines, and up to three examples; None if there is no doubt.

    Where all models score the same, mostly the models are not the reason: the task cannot read
    their answers, or the prompt is not in the format that they know.
    """
    scores = [item.scores("search") for item in history.baselines]
    examples = [item for one in scores if one is not None for item in one.examples]
    shown = tuple(scores[-1].examples[:3]) if scores and scores[-1] else ()
    if examples and all(item.parsed == INVALID for item in examples):
        return "the task's filter cannot parse the answers of the baselines", shown
    if not _are_equal(history.baselines):
        return None
    return (
        "all baselines have the same fitness, so it may not show which model is better; compare "
        "answers and targets",
        shown,
    )


def doubt_about_winner(history: History) -> str | None:
    """Return a warning if all candidates have the same fitness on the search documents."""
    if not _are_equal(history.candidates):
        return None
    return (
        "all candidates have the same fitness, so the winner is no better than the others; "
        "`evomerge report` shows prompts, answers and targets"
    )


def _are_equal(candidates: Sequence[Candidate]) -> bool:
    """Return whether two or more candidates are scored, and all of these have the same values."""
    values = [item.values for item in candidates if item.values is not None]
    return len(values) > 1 and len(set(values)) == 1
