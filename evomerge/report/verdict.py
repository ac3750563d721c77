"""Did the search work? The answer in words, from the standings."""

from __future__ import annotations

from collections.abc import Container
from typing import NamedTuple

from evomerge.report.beating import LEVEL
from evomerge.report.fronts import FrontComparison, missing_words
from evomerge.report.standings import Standings
from evomerge.report.words import listed, short_scores
from evomerge.run.history import Candidate
from evomerge.space.baselines import GREEDY_SOUP, UNIFORM


class Verdict(NamedTuple):
    """Whether the merge is better than every baseline beyond doubt (None: unknown); in words."""

    works: bool | None
    text: str


def verdict(table: Standings, best: Candidate | None) -> Verdict:
    """Return whether the best candidate is better than the parents and the uniform merge.

    It is, if the 95 % interval of its advantage over each of them is above 0 on the test documents;
    of a front, if a merge beats every parent (`evomerge.report.beating`).
    """
    if best is None:
        return Verdict(None, "No candidate has been scored yet.")
    if table.is_study:
        found = _verdict_of_study(table, best)
    else:
        found = _verdict_of_front(table) if table.has_front else _verdict_of_winner(table, best)
    if not table.broken or _is_named(table, best):
        return found
    who = "The knee" if table.has_front else table.names.get(best.name, f"Candidate {best.number}")
    where = "" if table.is_study else f" on the {table.broken_on} documents"
    broken = f"{who} breaks{where}: {table.broken}."
    # Of a front, another merge may be the one that beats every parent.
    works = found.works if table.has_front or not found.works else False
    return Verdict(works, f"{found.text} But {broken}")


def _is_named(table: Standings, best: Candidate) -> bool:
    """Whether the verdict of a front names the knee among the merges that cannot win."""
    if table.front is None or table.compared_on != "test":
        return False
    labels = (row.label for row in table.rows if row.candidate == best.number)
    return any(label in table.front.others for label in labels)


def _verdict_of_study(table: Standings, best: Candidate) -> Verdict:
    """Return what told scores say: which is the best, and not how sure that is."""
    row = next(row for row in table.rows if row.candidate == best.number)
    who = table.names[best.label] if best.label else f"candidate {best.number}"
    what = "the knee of the front is" if table.has_front else "the best is"
    values = ", ".join(
        f"{short} {table.cell(row, 'search', column)[0]}"
        for column, short in short_scores(table.columns).items()
    )
    return Verdict(
        None,
        f"No verdict: {what} {who} ({values}), by the scores that the study was told; "
        "to see whether it is better than the parents, score it and them again.",
    )


def _verdict_of_winner(table: Standings, best: Candidate) -> Verdict:
    if best.label is not None:
        name = table.names[best.label]
        text = f"no merge that was searched beats {name}, which is the winner itself."
        return Verdict(False, f"No evidence of improvement: {text}")
    if table.compared_on != "test":
        return Verdict(
            None,
            f"Not known yet: candidate {best.number} is the best so far, but it has no scores on "
            "the test documents to compare.",
        )
    missing = missing_words(table.missing, table.names)
    if not table.comparisons:
        return Verdict(None, f"No verdict: {missing}.")
    names = {label: table.names[label] for label in table.comparisons}
    apart = {label: item.difference for label, item in table.comparisons.items()}
    nearest = min(apart, key=lambda label: apart[label].value)
    closest = f"{names[nearest]} ({table.comparisons[nearest].text})"
    besides = f" Besides, {missing}." if missing else ""
    worse = [names[label] for label, item in apart.items() if item.high < 0]
    doubtful = [names[label] for label, item in apart.items() if not item.low > 0]
    where = "on the test documents the searched merge"
    if worse:
        text = f"No: {where} is worse than {listed(worse)}. The largest difference is to {closest}."
        return Verdict(False, text + besides)
    if doubtful:
        text = f"No evidence of improvement: {where} may be no better than {listed(doubtful)}."
        return Verdict(False, f"{text} The closest is {closest}.{besides}")
    if missing:
        better = f"{where} is better than {listed(names.values())}"
        return Verdict(None, f"No verdict: {better}, but {missing}.")
    text = f"Yes: {where} is better than {_each(names)}. The closest is {closest}."
    return Verdict(True, text)


def _verdict_of_front(table: Standings) -> Verdict:
    found = table.front
    if found is None or table.compared_on != "test":
        return Verdict(None, "Not known yet: the front has no scores on the test documents.")
    if not found.duels:
        return Verdict(
            False,
            "No evidence of improvement: only parents and the uniform merge are on the front.",
        )
    missing = missing_words(found.missing, table.names)
    excluded = missing_words(found.others, table.names)
    unknown = "; ".join(filter(None, (missing, excluded)))
    others = f" Besides, {excluded}." if excluded else ""
    if len(found.broken) == len(found.duels):
        return Verdict(
            False,
            f"No evidence of improvement: no merge on the front keeps all constraints; {excluded}.",
        )
    compared = [duels for duels in found.duels.values() if duels]
    if not compared:
        return Verdict(None, f"No verdict: {unknown}.")
    merges = f"{len(found.duels)} merge{'' if len(found.duels) == 1 else 's'}"
    some = compared[0][found.parents[0]]
    what = (
        "better in an objective beyond doubt, and in no other one worse by its margin: "
        f"{some.margin_words}"
    )
    count = len(found.winners)
    if not count:
        text = _trade_off(found, table, merges, what)
        return Verdict(False, f"{text} Besides, {unknown}." if unknown else text)
    verb = "beats" if count == 1 else "beat"
    if missing:
        parents = listed(table.names[parent] for parent in found.parents)
        return Verdict(
            None,
            f"No verdict: the front has {merges}, of which {count} {verb} {parents} on the test "
            f"documents ({what}), but {missing}.{others}",
        )
    return Verdict(
        True,
        f"Yes: the front has {merges}, of which {count} {verb} every parent on the test documents "
        f"({what}).{others}",
    )


def _trade_off(found: FrontComparison, table: Standings, merges: str, what: str) -> str:
    """Return what the merge that is nearest to beating every parent gains, and for what."""
    level = LEVEL / len(found.duels)
    none = f"the front has {merges}, and on the test documents none is shown to beat every parent"
    gaining = [
        merge
        for merge, duels in found.duels.items()
        if duels and all(item.gains(level) for item in duels.values())
    ]
    if not gaining:
        return (
            f"No evidence of improvement: {none}, and none is better than each parent in an "
            "objective beyond doubt."
        )
    nearest = min(gaining, key=lambda merge: found.p_values[merge])
    parent, closest = max(found.duels[nearest].items(), key=lambda pair: pair[1].p)
    gains, losses = (" and ".join(part(level)) for part in (closest.gains, closest.losses))
    return (
        f"A trade-off, no clear improvement: {none} ({what}). The nearest is "
        f"{table.names[nearest]}; against {table.names[parent]} it has {gains}, for {losses}."
    )


def front_rows(table: Standings) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """Return headers and rows of the neighbours on a front: by what they differ; None: no rows."""
    if table.front is None or not table.front.neighbours:
        return None
    names = short_scores(table.columns)
    keys = list(dict.fromkeys(k for pair in table.front.neighbours for k in pair.by_objective))
    rows = []
    for pair in table.front.neighbours:
        cells = []
        for key in keys:
            item = pair.by_objective.get(key)
            texts = item.difference.texts(item.factor, "+") if item else ("-", "")
            cells.append(" ".join(texts).strip())
        # The number of a candidate, or the name of a parent.
        first, second = (
            table.names[name].removeprefix("candidate ").removesuffix(" (knee)")
            for name in (pair.first, pair.second)
        )
        apart = "apart" if pair.are_apart else "not surely"
        rows.append((f"{first} - {second}", apart, *cells))
    return ("neighbours", f"on {table.compared_on}", *(names[key] for key in keys)), rows


def _each(labels: Container[str]) -> str:
    """Return the baselines with these labels in words."""
    averages = {UNIFORM: "the uniform merge", GREEDY_SOUP: "the greedy soup"}
    return listed(["each parent", *(text for label, text in averages.items() if label in labels)])
