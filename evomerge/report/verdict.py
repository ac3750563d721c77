"""Did the search work? The answer in words, from the standings."""

from __future__ import annotations

from collections.abc import Container, Mapping
from statistics import NormalDist
from typing import NamedTuple

from evomerge.config.schema import Frozen, SearchConfig
from evomerge.report.beating import LEVEL
from evomerge.report.confidence import Comparison
from evomerge.report.fronts import FrontComparison, missing_words
from evomerge.report.standings import Standings
from evomerge.report.words import listed, ordinal, short_scores
from evomerge.run.history import Candidate
from evomerge.scores import TOKENS
from evomerge.space.baselines import UNIFORM


class Verdict(NamedTuple):
    """Whether the merge is better than every baseline beyond doubt (None: unknown); in words."""

    works: bool | None
    text: str


def level(winner: int) -> float:
    """Return the p-value at which a winner is better, the first one that documents measure being 1.

    .02, .0025, .00125 and so on: a search that goes on measures one winner after the other on the
    same documents. These add up to no more than .025, one side of a 95 % interval (Bonferroni).
    """
    return 0.02 if winner == 1 else 0.005 / 2 ** (winner - 1)


def verdict(table: Standings, best: Candidate | None, advice: str = "") -> Verdict:
    """Return whether the best candidate is better than the parents and the uniform merge.

    It is, if on the test documents the p-value of "not better" is at most `level` for each of them;
    of a front, if a merge beats every parent (`evomerge.report.beating`). `advice` ends the answer
    if there is no evidence.
    """
    if best is None:
        return Verdict(None, "No candidate has been scored yet.")
    if table.is_study:
        found = _verdict_of_study(table, best)
    elif table.has_front:
        found = _verdict_of_front(table)
    else:
        found = _verdict_of_winner(table, best, advice)
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


def _verdict_of_winner(table: Standings, best: Candidate, advice: str) -> Verdict:
    names = table.names
    several = f" in the weighted mean of {listed(table.objectives)}"
    of = several if len(table.objectives) > 1 else ""
    if best.label is not None:
        text = f"no merge that was searched beats {names[best.label]}, which is the winner itself."
        text = f"{text}{lost(table, names)}{_beside_others(table, best.label, of)}{advice}"
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
    largest, where = level(table.earlier + 1), "on the test documents the searched merge"
    worse = {k: item for k, item in table.comparisons.items() if item.probability <= largest}
    doubtful = {k: item for k, item in table.comparisons.items() if 1 - item.probability > largest}
    nearest, closest = _nearest(worse or doubtful or table.comparisons)
    figures, losses = f"{names[nearest]} ({closest.text}).", lost(table, names)
    besides = f" Besides, {missing}." if missing else ""
    if worse:
        text = f"No: {where} is worse than {listed(names[label] for label in worse)}{of}.{losses}"
        return Verdict(False, f"{text} The largest difference is to {figures}{besides}{advice}")
    told = f"{of}.{losses} The closest is {figures}{_needed(table, closest)}{besides}"
    if doubtful:
        others = listed(names[label] for label in doubtful)
        text = f"No evidence of improvement: {where} may be no better than {others}"
        return Verdict(False, f"{text}{told}{advice}")
    if missing:
        better = f"{where} is better than {listed(names[label] for label in table.comparisons)}{of}"
        return Verdict(None, f"No verdict: {better}, but {missing}.{losses}")
    return Verdict(True, f"Yes: {where} is better than {_each(table.comparisons)}{told}")


def _beside_others(table: Standings, winner: str, of: str) -> str:
    """Return how an average that wins compares with the parents, or a parent with averages."""
    wins = winner == UNIFORM
    others = {label: it for label, it in table.comparisons.items() if (label == UNIFORM) != wins}
    if not others or table.compared_on != "test":
        return ""
    nearest, closest = _nearest(others)
    told = f"against {table.names[nearest]} {table.names[winner]} has {closest.text}{of}"
    if not wins:
        return f" On the test documents, {told}."
    sure = all(1 - item.probability <= level(1) for item in others.values())
    helped = "Averaging alone helped" if sure else "Nor is it sure that averaging helped"
    return f" {helped}: on the test documents, {told}."


def _nearest(comparisons: Mapping[str, Comparison]) -> tuple[str, Comparison]:
    """Return the baseline over which the advantage is the smallest, and the comparison with it."""
    return min(comparisons.items(), key=lambda pair: pair[1].difference.value)


def lost(table: Standings, names: Mapping[str, str]) -> str:
    """Return the objectives in which the winner is worse than the best parent, in sentences."""
    found: dict[str, list[str]] = {"is": [], "may be": []}
    for column, parent, against in table.losses:
        text = f"{column} ({against.amount} against {names[parent]})"
        found["is" if against.sign < 0 else "may be"].append(text)
    said = {verb: listed(parts) for verb, parts in found.items() if parts}
    return "".join(f" The winner {v} worse than the best parent in {o}." for v, o in said.items())


def _needed(table: Standings, closest: Comparison) -> str:
    """Return why a difference whose interval is above 0 may be no evidence, or nothing."""
    needed = f'"Yes" takes a probability of {1 - level(table.earlier + 1):.6g}'
    if table.earlier:
        which = f"the {ordinal(table.earlier + 1)} winner that these test documents measured"
        return f" It is {which}; with each, luck has another chance, so {needed}."
    is_near = closest.sign > 0 and 1 - closest.probability > level(1)
    return f" {needed}, so that later winners can be measured here too." if is_near else ""


def next_step(table: Standings, config: SearchConfig, tried: int) -> str:
    """Return what to do after a search of `tried` candidates without evidence, in a sentence."""
    is_merge = bool(table.comparisons) and table.names["searched"] == "searched"
    if is_merge and config.evaluation.test.documents != "all":
        found, z = _nearest(table.comparisons)[1], NormalDist().inv_cdf
        if 0.84 < found.probability < 1:  # one standard error ahead
            size = sum(item.size for item in found.samples)
            needed = size * (z(1 - level(table.earlier + 1)) / z(found.probability)) ** 2
            return f" Next: a new run with more test documents; it takes about {needed:,.0f}."
    genes, descends = len((config.frozen or Frozen()).genes), config.optimizer.descends
    has_answers = not any(
        item.metric == TOKENS or ":" in (item.task or "") for item in config.objectives
    )
    if config.space.kind == "parameters" and has_answers and not descends:
        return " Next: gradients (`optimizer: {name: gradient}`), if tasks have reference answers."
    if tried < 10 * genes and not descends:
        return f" Next: {10 * genes} candidates, 10 a gene: `evomerge resume RUN --candidates N`."
    return " Next: more search and validation documents, or other parents."


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
    return listed(["each parent", *(["the uniform merge"] if UNIFORM in labels else [])])
