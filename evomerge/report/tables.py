"""The standings of any run: of a winner, of a front (`front.py`), or of a study."""

import shlex
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import NormalDist
from typing import ClassVar, Self

from evomerge.config.record import Record
from evomerge.errors import RecipeError, listed
from evomerge.report.confidence import Comparison, compare
from evomerge.report.front import Front, front_standings
from evomerge.report.standings import MERGE, ScoreTable, Standings, Verdict, why_not_compared
from evomerge.run.folder import CONFIG
from evomerge.run.history import BASE, Candidate, History
from evomerge.run.ranking import Ranking, best_merge, best_of
from evomerge.scores import SPLITS, TOKENS, TOLD, Split
from evomerge.space.baselines import UNIFORM
from evomerge.space.knobs import is_smooth

_OF_STUDY = (
    "Each candidate has the score that the study was told. There are no documents, so nothing says "
    "how sure a difference is."
)
_OF_PARENTS = (
    "Parents with another config, tokenizer, chat template or dtype than the merges are scored "
    "with their own ones on the validation and test documents, as `evomerge evaluate` does; on the "
    "search documents with those of the merges."
)


def standings(history: History, ranking: Ranking) -> Standings:
    """Return the standings of a run."""
    best = best_of(history, ranking)
    make = front_standings if ranking.has_front else winner_standings
    table: Standings = make(history, ranking, best)
    if _is_told(ranking):
        table = Study.of(table)
    elif any(baseline.as_itself for baseline in history.baselines):
        table = replace(table, note=_OF_PARENTS)
    for split in reversed(SPLITS):
        if best is not None and (scores := best.scores(split)) is not None:
            broken = [
                f"{bound.text} ({scores.aggregates[bound.key]:.4g})"
                for bound in ranking.constraints
                if bound.violation(scores)
            ]
            return replace(table, broken=", ".join(broken), broken_on=split)
    return table


def alone(candidate: Candidate, ranking: Ranking) -> Standings:
    """Return a table with one candidate only; it has no rows if the candidate has no scores."""
    kind = Front if ranking.has_front else Winner
    table: Standings = kind.with_rows(ranking, [(f"candidate {candidate.number}", candidate)])
    table = replace(table, rows=[row for row in table.rows if row.estimates])
    return Study.of(table) if _is_told(ranking) else table


def _is_told(ranking: Ranking) -> bool:
    return any(objective.task == TOLD for objective in ranking.objectives)


@dataclass(frozen=True, kw_only=True)
class Winner(Standings):
    """The baselines, the best merge if a baseline wins, the base if it is no parent, the winner.

    The searched merge is better than the baselines if on the test documents the p-value of "not
    better" is at most `level` for each of them. It is worse if that of "not worse" is at most
    `level` divided by their number for one of them: each comparison is another chance for luck
    (Bonferroni), whereas better it must be in all.
    """

    has_fitness: ClassVar[bool] = True
    has_chart: ClassVar[bool] = True

    def tables(self) -> list[ScoreTable]:
        """Return a table for each column; the split that nothing was chosen on comes first."""
        return [
            self.table(
                f"{column} in %" if self.factor(column) == 100 else column,
                {(split, column): split for split in reversed(SPLITS)},
            )
            for column in sorted(self.columns, key=lambda column: column != self.main_column)
        ]

    def answer(self, best: Candidate, advice: str) -> Verdict:
        """Return whether the searched merge is better than all baselines."""
        return _verdict(self, best, advice)


@dataclass(frozen=True, kw_only=True)
class Study(Standings):
    """The standings of a study: told scores, which have no documents and so no intervals."""

    splits: ClassVar[tuple[Split, ...]] = ("search",)
    has_documents: ClassVar[bool] = False

    @classmethod
    def of(cls, table: Standings) -> Self:
        """Return the standings of a study from those of its winner or front."""
        values = {attribute.name: getattr(table, attribute.name) for attribute in fields(Standings)}
        return cls(**values | {"note": _OF_STUDY, "missing": {}, "front": None})

    def tables(self) -> list[ScoreTable]:
        """Return one table of all scores."""
        return [self.whole_table("scores", self.compared_on or "search")]

    def answer(self, best: Candidate, advice: str) -> Verdict:
        """Return that there is no verdict."""
        why = "by the scores that the study was told; to see whether it is better than the parents"
        text = f"{self.name_of(best)} leads {why}, score it and them again."
        return Verdict(None, f"No verdict: {text}")


def winner_standings(history: History, ranking: Ranking, best: Candidate | None) -> Winner:
    """Return the baselines, and how the winner compares with them."""
    baselines, tested, objectives = history.baselines, history.tested, ranking.objectives
    others = {candidate.name: candidate for candidate in baselines}
    if best and best.label is not None and (merge := best_merge(history, ranking)):
        others[MERGE] = merge
    rows = [*others.items(), *((candidate.name, candidate) for candidate in history.bases)]
    if best is None:
        return Winner.with_rows(ranking, rows)
    earlier = tested.index(best) if best in tested else len(tested)
    best_is = "The winner" if history.winner is best else "The best so far"
    table = Winner.with_rows(ranking, [*rows, ("searched", best)], earlier=earlier, best_is=best_is)
    for split in reversed(SPLITS):
        ours = best.scores(split)
        # A baseline that failed is named; one that is not scored yet waits on the split before.
        if ours is None or not any(split in baseline.outcomes for baseline in baselines):
            continue
        compared, missing = dict[str, Comparison](), dict[str, str]()
        for label, candidate in others.items():
            theirs = None if candidate is best else candidate.scores(split)
            if theirs and (comparison := compare(objectives, ours, theirs)):
                compared[label] = comparison
            elif candidate is not best:
                missing[label] = why_not_compared(candidate, split)
        return replace(table, comparisons=compared, compared_on=split, missing=missing)
    return table


def level(winner: int) -> float:
    """Return the p-value at which a winner is better, the first one that documents measure being 1.

    .02, .0025, .00125 and so on: a search that goes on measures one winner after the other on the
    same documents. These add up to no more than .025, one side of a 95 % interval (Bonferroni).
    """
    return 0.02 if winner == 1 else 0.005 / 2 ** (winner - 1)


def _verdict(table: Winner, best: Candidate, advice: str) -> Verdict:
    names, missing = table.names, table.not_compared
    losses = _lost(table, table.compared_on) if table.compared_on else ""
    keys = [objective.key for objective in table.objectives]
    of = f" in the weighted mean of {listed(keys)}" if len(keys) > 1 else ""
    besides = f" Besides, {missing}." if missing else ""
    if best.label is not None and table.compared_on != "search":
        text = f"no merge that was searched beats {names[best.label]}, which is the winner itself"
        text += f"{_tied(table)}.{losses}{_beside_others(table, best.label, of)}{besides}{advice}"
        return Verdict(False, f"No evidence of improvement: {text}")
    if table.compared_on != "test":
        text = f"{table.name_of(best)} is the best so far, but "
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
    for objective in table.objectives if len(table.objectives) > 1 else ():
        at, sign = (split, objective.key), 1 if objective.higher_is_better else -1
        known = [row for row in parents if at in row.estimates]
        better = [r for r in known if sign * (r.estimates[at].value - ours.estimates[at].value) > 0]
        cells = [f"{table.names[r.label]} {table.cell(r, *at)[0]}" for r in (*better, ours)]
        parts += [f"{objective.key} ({', '.join(cells)})"] if better else []
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
        least = min(table.comparisons.values(), key=lambda comparison: comparison.probability)
        z = NormalDist().inv_cdf
        if 0.84 < least.probability < 1:  # one standard error ahead
            needed = least.documents * (z(1 - level(table.earlier + 1)) / z(least.probability)) ** 2
            return f" Next: a new run with more test documents; it takes about {needed:,.0f}."
    values = _values(table, "search")
    known = [scores for baseline in history.baselines if (scores := baseline.scores("search"))]
    if len({*values.values()}) == 1 < len(values) and any(scores.examples for scores in known):
        quoted = shlex.join([config.parents[0], "--config", str(run / CONFIG), "--show", "3"])
        show = f"`evomerge evaluate {quoted}`"
        return f" Next: look at the answers, since all scores are alike: {show}."
    if not is_merge and values.get("searched") == 1.0 and table.factor(table.main_column) == 100:
        return " Next: a harder task, since the winner has a perfect score."
    descends, genes = config.optimizer.needs_gradients, len(record.genes)
    # A text that is only read has no answer, and needs none.
    has_answers = all(e.target or not e.answer for scores in known for e in scores.examples)
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
