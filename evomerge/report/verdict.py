"""Did the search work? The answer in words, from the standings."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from statistics import NormalDist
from typing import NamedTuple

from evomerge.config.record import Record
from evomerge.errors import RecipeError, listed
from evomerge.report.confidence import Comparison
from evomerge.report.standings import MERGE, Differences, Standings
from evomerge.run.folder import CONFIG
from evomerge.run.history import BASE, Candidate, History
from evomerge.scores import TOKENS, Split
from evomerge.space.baselines import UNIFORM
from evomerge.space.knobs import is_smooth
from evomerge.words import short_scores


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

    It is, if on the test documents the p-value of "not better" is at most `level` for each of them.
    It is worse if that of "not worse" is at most `level` divided by their number for one of them:
    each comparison is another chance for luck (Bonferroni), whereas better it must be in all.
    A front has no verdict, but a sentence of its knee and each parent. `advice` ends the answer if
    there is no evidence.
    """
    if best is None:
        return Verdict(None, "No candidate has been scored yet.")
    name = table.names.get(best.name, f"candidate {best.number}")
    who = "the knee" if table.has_front else name
    if table.is_study:
        why = "by the scores that the study was told; to see whether it is better than the parents"
        answer = Verdict(None, f"No verdict: {name} leads {why}, score it and them again.")
    elif table.has_front:
        answer = _verdict_of_front(table, best)
    else:
        answer = _verdict_of_winner(table, best, advice)
    if not table.broken:
        return answer
    where = "" if table.is_study else f" on the {table.broken_on} documents"
    text = f"{answer.text} But {who} breaks{where}: {table.broken}."
    return Verdict(answer.works and False, text)


def _verdict_of_winner(table: Standings, best: Candidate, advice: str) -> Verdict:
    names, missing = table.names, _missing(table)
    losses = _lost(table, table.compared_on) if table.compared_on else ""
    keys = [item.key for item in table.objectives]
    of = f" in the weighted mean of {listed(keys)}" if len(keys) > 1 else ""
    besides = f" Besides, {missing}." if missing else ""
    if best.label is not None and table.compared_on != "search":
        text = f"no merge that was searched beats {names[best.label]}, which is the winner itself"
        text += f"{_tied(table)}.{losses}{_beside_others(table, best.label, of)}{besides}{advice}"
        return Verdict(False, f"No evidence of improvement: {text}")
    if table.compared_on != "test":
        text = f"{names.get(best.label or '', f'candidate {best.number}')} is the best so far, but "
        text += "not all that it is compared with was scored on the test documents."
        return Verdict(None, f"Not known yet: {text}")
    if not table.comparisons:
        return Verdict(None, f"No verdict: {missing}.{losses}")
    largest, where = level(table.earlier + 1), "on the test documents the searched merge"
    each = largest / len(table.comparisons)
    worse = {k: item for k, item in table.comparisons.items() if item.probability <= each}
    doubtful = {k: item for k, item in table.comparisons.items() if 1 - item.probability > largest}
    nearest, closest = _nearest(worse or doubtful or table.comparisons)
    figures = f"{names[nearest]} ({closest.text})."
    if worse:
        text = f"No: {where} is worse than {listed(names[label] for label in worse)}{of}.{losses}"
        return Verdict(False, f"{text} The largest difference is to {figures}{besides}{advice}")
    close = f"{of}.{losses} The closest is {figures}{_needed(table, closest)}{besides}"
    if doubtful:
        others = listed(names[label] for label in doubtful)
        text = f"No evidence of improvement: {where} may be no better than {others}"
        return Verdict(False, f"{text}{close}{advice}")
    if missing:
        better = f"{where} is better than {listed(names[label] for label in table.comparisons)}{of}"
        return Verdict(None, f"No verdict: {better}, but {missing}.{losses}")
    every = "each parent and the uniform merge" if UNIFORM in table.comparisons else "each parent"
    return Verdict(True, f"Yes: {where} is better than {every}{close}")


def _missing(table: Standings) -> str:
    """Return who is not compared, and why, as the part of a sentence."""
    names: dict[str, list[str]] = {}
    for label, why in table.missing.items():
        names.setdefault(why, []).append(table.names[label])
    return "; ".join(f"{listed(those)} {why}" for why, those in names.items())


def _beside_others(table: Standings, winner: str, of: str) -> str:
    """Return how an average that wins compares with the parents, or a parent with merges."""
    is_parent = winner != UNIFORM
    others = {k: it for k, it in table.comparisons.items() if (k in (UNIFORM, MERGE)) == is_parent}
    if not others or table.compared_on != "test":
        return ""
    nearest, closest = _nearest(others)
    against = f"against {table.names[nearest]} {table.names[winner]} has {closest.text}{of}"
    return f" On the test documents, {against}."


def _tied(table: Standings) -> str:
    """Return that the best merge is as good as the baseline that wins, if it is."""
    values = _values(table, "validation")
    is_tied = MERGE in values and values[MERGE] == values.get("searched")
    return f"; {table.names[MERGE]} has the same score on validation documents" if is_tied else ""


def _values(table: Standings, split: Split) -> dict[str, float]:
    """Return label -> what models are compared by, as far as they have it."""
    key = (split, table.main_column)
    return {row.label: row.estimates[key].value for row in table.rows if key in row.estimates}


def _nearest(comparisons: Mapping[str, Comparison]) -> tuple[str, Comparison]:
    """Return the baseline over which the advantage is the smallest, and the comparison with it."""
    return min(comparisons.items(), key=lambda pair: pair[1].difference.value)


def _lost(table: Standings, split: Split) -> str:
    """Return in which of several objectives parents score better than the winner, in a sentence."""
    models = (row for row in table.rows if row.candidate != BASE)
    *parents, ours = (row for row in models if row.label not in (UNIFORM, MERGE))
    parts = []
    for item in table.objectives if len(table.objectives) > 1 else ():
        at, sign = (split, item.key), 1 if item.higher_is_better else -1
        known = [row for row in parents if at in row.estimates]
        better = [r for r in known if sign * (r.estimates[at].value - ours.estimates[at].value) > 0]
        cells = [f"{table.names[r.label]} {table.cell(r, *at)[0]}" for r in (*better, ours)]
        parts += [f"{item.key} ({', '.join(cells)})"] if better else []
    return f" A parent has a better score in {listed(parts)}." if parts else ""


def _needed(table: Standings, closest: Comparison) -> str:
    """Return why a difference whose interval is above 0 may be no evidence, or nothing."""
    needed = f'"Yes" takes a probability of {1 - level(table.earlier + 1):.6g}'
    if table.earlier:
        which = f"winner {table.earlier + 1} that these test documents measured"
        return f" It is {which}; with each, luck has another chance, so {needed}."
    is_near = closest.sign > 0 and 1 - closest.probability > level(1)
    return f" {needed}, so that later winners can be measured here too." if is_near else ""


def next_step(table: Standings, record: Record, history: History, run: Path) -> str:
    """Return what to do after the search in a folder without evidence, in a sentence."""
    config = record.config
    is_merge = bool(table.comparisons) and table.names["searched"] == "searched"
    if is_merge and config.evaluation.test.documents != "all":
        least = min(table.comparisons.values(), key=lambda item: item.probability)
        z = NormalDist().inv_cdf
        if 0.84 < least.probability < 1:  # one standard error ahead
            needed = least.documents * (z(1 - level(table.earlier + 1)) / z(least.probability)) ** 2
            return f" Next: a new run with more test documents; it takes about {needed:,.0f}."
    values = _values(table, "search")
    known = [scores for item in history.baselines if (scores := item.scores("search"))]
    if len({*values.values()}) == 1 < len(values) and any(scores.examples for scores in known):
        quoted = shlex.join([config.parents[0], "--config", str(run / CONFIG), "--show", "3"])
        show = f"`evomerge evaluate {quoted}`"
        return f" Next: look at the answers, since all scores are alike: {show}."
    if not is_merge and values.get("searched") == 1.0 and table.factor(table.main_column) == 100:
        return " Next: a harder task, since the winner has a perfect score."
    descends, genes = config.optimizer.needs_gradients, len(record.genes)
    # A text that is only read has no answer, and needs none.
    has_answers = all(it.target or not it.answer for scores in known for it in scores.examples)
    has_answers &= not any(o.metric == TOKENS or ":" in (o.task or ":") for o in config.objectives)
    if has_answers and not descends and _has_gradient(record):
        return " Next: gradients (`optimizer: {name: gradient}`), if `validate` takes them."
    if len(history.candidates) < 10 * genes and not descends:
        quoted = shlex.join([str(run), "--candidates", str(10 * genes)])
        return f" Next: {10 * genes} candidates, 10 a gene: `evomerge resume {quoted}`."
    return " Next: more search and validation documents, or other parents."


def _has_gradient(record: Record) -> bool:
    """Return whether a gene has a gradient; of an old run, which names no kinds, it is taken so."""
    space, ranges = record.config.space, record.gene_ranges
    if space.is_path:
        return False
    real = [gene for it in ranges if it.kind == "real" for gene in it.genes]
    with suppress(RecipeError):  # the package with a method was removed since
        return not ranges or any(is_smooth(gene, space.methods) for gene in real)
    return False


def _verdict_of_front(table: Standings, best: Candidate) -> Verdict:
    if table.front is None or table.compared_on != "test":
        return Verdict(None, "Not known yet: the front has no scores on the test documents.")
    if not table.front:
        text = "only parents and the uniform merge are on the front."
        return Verdict(False, f"No evidence of improvement: {text}")
    merges = f"{len(table.front)} merge{'s' * (len(table.front) > 1)}"
    text = f"No verdict on a front of {merges}: which is best depends on what counts."
    knee = next(row.label for row in table.rows if row.candidate == best.number)
    for parent, differences in table.front.get(knee, {}).items():
        how = _in_words(differences, short_scores(table.columns))
        text += f" Against {table.names[parent]}, {table.names[knee]} is {how}."
    missing = _missing(table)
    return Verdict(None, f"{text} Besides, {missing}." if missing else text)


def _in_words(differences: Differences, names: Mapping[str, str]) -> str:
    """Return how a merge differs: `better in acc (+3.0 points [1.0, 5.1]), worse in tokens (...)`.

    `names`: `task/metric` -> what people read. Better and worse are beyond doubt: their 95 %
    intervals do not contain 0.
    """
    parts = []
    for sign, words in {1: "better in", -1: "worse in", 0: "perhaps the same in"}.items():
        texts = [f"{names[k]} ({it.amount})" for k, it in differences.items() if it.sign == sign]
        parts += [f"{words} {listed(texts)}"] if texts else []
    return ", ".join(parts)


def front_rows(table: Standings) -> tuple[tuple[str, ...], list[tuple[str, ...]]] | None:
    """Return headers and rows of the merges on a front: by what they differ from each parent."""
    names, rows = short_scores(table.columns), []
    for merge, parents in (table.front or {}).items():
        for parent, differences in parents.items():
            cells = [differences[key].cell if key in differences else "-" for key in names]
            rows.append((f"{table.names[merge]} - {table.names[parent]}", *cells))
    return ((f"on {table.compared_on}", *names.values()), rows) if rows else None
