"""Why a baseline is not compared with the searched merge, or a merge cannot win."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomerge.run.history import Candidate
from evomerge.scores import Constraint, Failure, Split


def why_not_compared(candidate: Candidate, split: Split) -> str:
    """Return why a candidate cannot be compared on a split, as the end of a sentence."""
    outcome = candidate.outcomes.get(split)
    if outcome is None:
        return f"was not scored on the {split} documents"
    if isinstance(outcome, Failure):
        reason = f"{outcome.stage}: {outcome.reason}".rstrip(".")
        return f"has no scores on the {split} documents ({reason})"
    return "cannot be compared, since a score is not the mean of the same documents"


def broken_words(constraints: Sequence[Constraint], candidate: Candidate, split: Split) -> str:
    """Return the constraints that a candidate breaks on a split, with its values; or nothing."""
    scores = candidate.scores(split)
    if scores is None:
        return ""
    broken = (item for item in constraints if item.violation(scores))
    return ", ".join(f"{item.text} ({scores.aggregates[item.key]:.4g})" for item in broken)


def missing_words(missing: Mapping[str, str], names: Mapping[str, str]) -> str:
    """Return who is not compared, and why, as the part of a sentence."""
    return "; ".join(f"{names[label]} {why}" for label, why in missing.items())
