"""Did the search work? The answer in words, from the standings."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.report.standings import FITNESS, Standings
from evomerge.run.history import Candidate


@dataclass(frozen=True)
class Verdict:
    """The answer.

    Attributes:
        works: whether the searched merge is better than every baseline beyond doubt; None if that
            is not known yet.
        text: the answer as one or two sentences.
    """

    works: bool | None
    text: str


def verdict(table: Standings, best: Candidate | None) -> Verdict:
    """Return whether the searched merge is better than the parents and the uniform merge.

    It is, if the 95 % interval of its advantage over each of them is above 0 on the test documents.

    Args:
        table: the standings of a run.
        best: the winner, or the best candidate so far.
    """
    if best is None:
        return Verdict(None, "No candidate has been scored yet.")
    if best.label is not None:
        name = table.names[best.label]
        return Verdict(
            False,
            f"No evidence of improvement: no merge that was searched beats {name}, which is the "
            "winner itself.",
        )
    if table.compared_on != "test" or not table.comparisons:
        return Verdict(
            None,
            f"Not known yet: candidate {best.number} is the best so far, but it has no scores on "
            "the test documents to compare.",
        )
    names = {label: table.names[label] for label in table.comparisons}
    doubtful = [label for label, item in table.comparisons.items() if not item.difference.low > 0]
    closest = min(table.comparisons, key=lambda label: table.comparisons[label].difference.value)
    closest_text = f"{names[closest]} ({table.comparisons[closest].text})"
    if not doubtful:
        return Verdict(
            True,
            "Yes: on the test documents the searched merge is better than each parent and the "
            f"uniform merge. The closest is {closest_text}.",
        )
    worse = [label for label in doubtful if table.comparisons[label].difference.high < 0]
    if worse:
        return Verdict(
            False,
            f"No: on the test documents the searched merge is worse than {_listed(worse, names)}. "
            f"The largest difference is to {closest_text}.",
        )
    return Verdict(
        False,
        "No evidence of improvement: on the test documents the searched merge may be no better "
        f"than {_listed(doubtful, names)}. The closest is {closest_text}.",
    )


def _listed(labels: list[str], names: dict[str, str]) -> str:
    return " and ".join(names[label] for label in labels)


def main_column(table: Standings) -> str:
    """Return the column that candidates are compared by: the fitness, or the only metric."""
    return FITNESS if FITNESS in table.columns else table.columns[-1]
