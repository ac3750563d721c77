"""Did the search work? The answer in words, from the standings."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from evomerge.report.names import short_scores
from evomerge.report.standings import FITNESS, Standings
from evomerge.run.history import Candidate
from evomerge.space.baselines import GREEDY_SOUP, UNIFORM


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
    found = _verdict_of_front(table) if table.has_front else _verdict_of_winner(table, best)
    if not table.broken:
        return found
    who = "The knee" if table.has_front else table.names.get(best.name, f"Candidate {best.number}")
    broken = f"{who} breaks on the {table.broken_on} documents: {', '.join(table.broken)}."
    return Verdict(False if found.works else found.works, f"{found.text} But {broken}")


def _verdict_of_winner(table: Standings, best: Candidate) -> Verdict:
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
            f"Yes: on the test documents the searched merge is better than {_each(names)}. The "
            f"closest is {closest_text}.",
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


def _verdict_of_front(table: Standings) -> Verdict:
    found = table.front
    if found is None or table.compared_on != "test":
        return Verdict(None, "Not known yet: the front has no scores on the test documents.")
    if not found.beaten:
        return Verdict(
            False,
            "No evidence of improvement: only parents and the uniform merge are on the front.",
        )
    merges = _counted(len(found.beaten), "merge")
    winners = sum(len(beaten) == len(found.parents) for beaten in found.beaten.values())
    what = "better in one objective beyond doubt, and worse in none"
    if not winners:
        return Verdict(
            False,
            f"Other trade-offs, no clear improvement: the front has {merges}, and on the test "
            f"documents none of them beats every parent ({what}).",
        )
    verb = "beats" if winners == 1 else "beat"
    return Verdict(
        True,
        f"Yes: the front has {merges}, of which {winners} {verb} every parent on the test "
        f"documents ({what}).",
    )


def front_rows(table: Standings) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """Return a table of the neighbours on a front: by what they differ, and whether surely.

    Returns:
        the headers and the rows; None if there are no neighbours to compare.
    """
    if table.front is None or not table.front.neighbours:
        return None
    names = short_scores(table.columns)
    keys = list(dict.fromkeys(k for pair in table.front.neighbours for k in pair.by_objective))
    rows = []
    for pair in table.front.neighbours:
        cells = []
        for key in keys:
            item = pair.by_objective.get(key)
            texts = item.difference.texts(item.factor, "+.1f") if item else ("-", "")
            cells.append(" ".join(texts).strip())
        first, second = (_brief(table.names[name]) for name in (pair.first, pair.second))
        apart = "apart" if pair.are_apart else "not surely"
        rows.append((f"{first} - {second}", apart, *cells))
    return ("neighbours", f"on {table.compared_on}", *(names[key] for key in keys)), rows


def _brief(name: str) -> str:
    """Return the number of a candidate, or the name of a parent."""
    return name.removeprefix("candidate ").removesuffix(" (knee)")


def _each(labels: Container[str]) -> str:
    """Return the baselines with these labels in words."""
    averages = {UNIFORM: "the uniform merge", GREEDY_SOUP: "the greedy soup"}
    parts = ["each parent", *(text for label, text in averages.items() if label in labels)]
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def _counted(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _listed(labels: list[str], names: dict[str, str]) -> str:
    return " and ".join(names[label] for label in labels)


def main_column(table: Standings) -> str:
    """Return the column that candidates are compared by: the fitness, or the first metric."""
    return FITNESS if FITNESS in table.columns else table.columns[0]
