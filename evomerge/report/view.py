"""One reading of a run (`View`), from which its report is made, and runs of several seeds."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from pathlib import Path
from statistics import NormalDist, fmean
from typing import Any, Self

from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import InputError, RecipeError
from evomerge.evaluation.objectives import stock_command
from evomerge.recipe import Recipe
from evomerge.report.also import Kept, kept_measures, with_losses
from evomerge.report.confidence import Interval, factor_of_fitness, fitness_interval, mean_of_runs
from evomerge.report.facts import Facts, candidate_rows, with_seconds
from evomerge.report.fronts import box_of, hypervolume, split_of_front
from evomerge.report.pictures import candidates_charts, standings_chart
from evomerge.report.recipe_picture import recipe_picture
from evomerge.report.standings import Standings, Verdict
from evomerge.report.tables import level, standings
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.ranking import Ranking, best_of, front_of, measured, ranking_of
from evomerge.scores import TOKENS, Split
from evomerge.space.baselines import UNIFORM
from evomerge.space.knobs import is_smooth
from evomerge.words import renamed, short_names

_OF_A_RUN = {"seed", "executor"}
"""Sections in which runs of one search file may differ."""

_HEADS = {"search": "search", "seeds": "seeds", "merges_won": "merges won", "score": "test score"}
_HEADS |= {"best_parent": "best parent", "uniform": "uniform"}
_HEADS |= {"front": "front", "hypervolume": "hypervolume"}
_HEADS |= {"candidates": "candidates", "cpu_seconds": "CPU s"}
"""Key of a row of `run_rows` -> header of its column for people."""

_OF_ONE_FITNESS, _OF_FRONTS = ("score", "best_parent", "uniform"), ("front", "hypervolume")


@dataclass(frozen=True)
class View:
    """A run as it was when it was read: its folder, record and candidates."""

    run: RunFolder
    record: Record
    history: History

    @classmethod
    def of(cls, run: RunFolder) -> Self:
        """Read a run."""
        return cls(run, run.record(), History(run.events()))

    @property
    def config(self) -> SearchConfig:
        """The search file, with all that was resolved."""
        return self.record.config

    @cached_property
    def ranking(self) -> Ranking:
        """What compares the candidates."""
        return ranking_of(self.record)

    @cached_property
    def table(self) -> Standings:
        """The standings."""
        return standings(self.history, self.ranking)

    @cached_property
    def best(self) -> Candidate | None:
        """The winner, or the best candidate so far."""
        return best_of(self.history, self.ranking)

    @cached_property
    def verdict(self) -> Verdict:
        """Whether the search worked, and what to do next if there is no evidence."""
        verdict = self.table.verdict(self.best, self.advice)
        return with_losses(verdict, self.kept)

    @cached_property
    def kept(self) -> list[Kept]:
        """What the winner has kept and lost of what the base can do; see `evaluation.also`."""
        return kept_measures(self.record.also, self.history, self.ranking, self.config.base)

    @property
    def advice(self) -> str:
        """What to do after the search if there is no evidence, in a sentence."""
        table, config = self.table, self.config
        is_merge = bool(table.comparisons) and table.names["searched"] == "searched"
        if is_merge and config.evaluation.test.documents != "all":
            least = min(table.comparisons.values(), key=lambda comparison: comparison.probability)
            z = NormalDist().inv_cdf
            if 0.84 < least.probability < 1:  # one standard error ahead
                share = z(1 - level(table.earlier + 1)) / z(least.probability)
                needed = f"{least.documents * share**2:,.0f}"
                return f" Next: a new run with more test documents; it takes about {needed}."
        values = table.main_values("search")
        baselines = (baseline.scores("search") for baseline in self.history.baselines)
        known = [scores for scores in baselines if scores]
        if len({*values.values()}) == 1 < len(values) and any(scores.examples for scores in known):
            file = str(self.run.path / CONFIG)
            quoted = shlex.join([config.parents[0], "--config", file, "--show", "3"])
            why = "since all scores are alike"
            return f" Next: look at the answers, {why}: `evomerge evaluate {quoted}`."
        is_share = table.factor(table.main_column) == 100
        if not is_merge and is_share and values.get("searched") == 1.0:
            return " Next: a harder task, since the winner has a perfect score."
        descends, genes = config.optimizer.needs_gradients, len(self.record.genes)
        # A text that is only read has no answer, and needs none.
        has_answers = all(e.target or not e.answer for scores in known for e in scores.examples)
        has_answers &= not any(
            objective.metric == TOKENS or ":" in (objective.task or ":")
            for objective in config.objectives
        )
        if has_answers and not descends and _has_gradient(self.record):
            return " Next: gradients (`optimizer: {name: gradient}`), if `validate` takes them."
        if len(self.history.candidates) < 10 * genes and not descends:
            quoted = shlex.join([str(self.run.path), "--candidates", str(10 * genes)])
            return f" Next: {10 * genes} candidates, 10 a gene: `evomerge resume {quoted}`."
        return " Next: more search and validation documents, or other parents."

    @cached_property
    def names(self) -> dict[str, str]:
        """Reference of a parent -> the name that people read, as in the standings."""
        return short_names(filter(None, (*self.config.parents, self.config.base)))

    @property
    def genes(self) -> list[str]:
        """The genes, in the order of the genome, with the names of parents that people read."""
        return [renamed(name, self.names) for name in self.record.genes]

    def candidates(self) -> list[dict[str, Any]]:
        """Return a row for each candidate; see `candidate_rows`."""
        rows = candidate_rows(self.history, measured(self.ranking), self.genes)
        return with_seconds(rows, self.run.timings.of_candidates())

    @cached_property
    def recipe(self) -> Recipe | None:
        """The recipe of the best candidate, from `best.yaml`; None if that has another one."""
        try:
            recipe = Recipe.from_yaml((self.run.path / "best.yaml").read_text(encoding="utf-8"))
        except (OSError, RecipeError):
            return None
        best = self.best
        # The file of a parent has its own config and tokenizer, and so another digest.
        fits = best and (recipe.parents == (best.label,) or recipe.digest == best.digest)
        return recipe if fits else None

    @cached_property
    def figures(self) -> dict[str, Any]:
        """The pictures that this run can have, as matplotlib figures by name."""
        figures: dict[str, Any] = {**candidates_charts(self.history, self.ranking)}
        if self.table.rows and self.table.has_chart:
            figures["standings"] = standings_chart(self.table)
        if (recipe := self.recipe) and (
            figure := recipe_picture(recipe, short_names(recipe.parents))
        ):
            figures["recipe"] = figure
        return figures

    @property
    def stock_command(self) -> str | None:
        """The command that scores the exported model by the stock tool; see `stock_command`."""
        stored = self.best is not None and "test" in self.best.as_itself
        single = self.history.threads == 1
        return stock_command(self.record, self.run.path, single_thread=single, stored_dtype=stored)


def _has_gradient(record: Record) -> bool:
    """Return whether a gene has a gradient; of an old run, which names no kinds, it is taken so."""
    space, ranges = record.config.space, record.gene_ranges
    if space.is_path:
        return False
    real = [gene for group in ranges if group.kind == "real" for gene in group.genes]
    with suppress(RecipeError):  # the package with a method was removed since
        return not ranges or any(is_smooth(gene, space.methods) for gene in real)
    return False


def searches_of(folders: Sequence[Path]) -> dict[str, list[View]]:
    """Return the runs of each search file, which differ in their seeds, by the file's name.

    InputError: a folder is no run, or two are the same search with the same seed.
    """
    groups: dict[str, dict[int, View]] = {}
    for folder in folders:
        view = View.of(RunFolder(folder))
        group = groups.setdefault(_course(view.config), {})
        if (other := group.setdefault(view.config.seed, view)) is not view:
            raise InputError(
                f"{other.run.path} and {folder} are the same search with the same seed, so they "
                "count once; give one of them."
            )
    searches = [list(group.values()) for group in groups.values()]
    names = [_name(views[0]) for views in searches]
    if len(set(names)) < len(names):
        names = [f"{_name(views[0])} {views[0].config.optimizer.name}" for views in searches]
    if len(set(names)) < len(names):
        names = [" ".join(str(view.run.path) for view in views) for views in searches]
    return dict(zip(names, searches, strict=True))


def _course(config: SearchConfig) -> str:
    """Return what determines the course of a search with any seed.

    Runs of before fresh documents say `auto` where later ones say null or false.
    """
    course = config.model_dump(mode="json", exclude=_OF_A_RUN)
    search, racing = course["evaluation"]["search"], course["evaluation"]["racing"]
    search["fresh"] = search["fresh"] if isinstance(search["fresh"], int) else None
    course["evaluation"]["racing"] = racing if racing["enabled"] is True else None
    return json.dumps(course, sort_keys=True)


def run_rows(folders: Sequence[Path]) -> list[Facts]:
    """Return a row for each search file, with means over its runs.

    `seeds` is the number of runs that have ended. `score` is the mean of their winners' fitness on
    test documents with its 95 % interval (`mean_of_runs`), None for searches for a front.
    `percent` says whether scores are shares, which people read in per cent. Searches for a front
    have `front`, the mean number of its members, and `hypervolume`, the mean share that it
    dominates of the box from the worst to the best score of all runs with these objectives.
    InputError: as for `searches_of`.
    """
    searches = searches_of(folders)
    rows = [_row(name, views) for name, views in searches.items()]
    for row, views in zip(rows, searches.values(), strict=True):
        if views[0].ranking.has_front:
            keys, all_views = _front_keys(views[0]), chain.from_iterable(searches.values())
            _add_front(row, views, [view for view in all_views if _front_keys(view) == keys])
    return rows


def _front_keys(view: View) -> set[str]:
    """Return the objectives of a search for a front; none of a search for one fitness."""
    ranking = view.ranking
    return {objective.key for objective in ranking.objectives} if ranking.has_front else set()


def _add_front(row: Facts, views: Sequence[View], alike: Sequence[View]) -> None:
    """Add the size and hypervolume of fronts to a row; `alike` has all runs that share its box."""
    splits = {split_of_front(view.history, view.ranking) for view in alike}
    split: Split = "test" if splits == {"test"} else "search"
    box = box_of([(view.history, view.ranking) for view in alike], split)
    members = fmean(len(front_of(view.history, view.ranking)) for view in views)
    row.add("front", members, f"{members:.1f}".removesuffix(".0"))
    has_range = bool(box) and all(worst != best for worst, best in box.values())
    volume = (
        fmean(hypervolume(view.history, view.ranking, box, split) for view in views)
        if has_range
        else None
    )
    row.add("hypervolume", volume, "-" if volume is None else f"{100 * volume:.1f} % on {split}")


def _name(view: View) -> str:
    """Return the name of a run folder without the seed; if that is all, the folder around it."""
    folder = view.run.path.resolve()
    return re.sub(rf"(^|[-_.]){view.config.seed}$", "", folder.name) or folder.parent.name


def _row(name: str, views: Sequence[View]) -> Facts:
    ranking, is_share, score = views[0].ranking, False, None
    winners = [w for view in views if (w := view.history.winner) and w.scores("test")]
    tests = [scores for winner in winners if (scores := winner.scores("test")) is not None]
    if tests and winners[0].fitness is not None:  # a front has none
        is_share = factor_of_fitness(ranking.objectives, tests) == 100
        bounds = (0.0, 1.0) if is_share else (-math.inf, math.inf)
        estimates = [fitness_interval(ranking.objectives, scores) for scores in tests]
        score = mean_of_runs(estimates, *bounds)
    objectives = ", ".join(objective.key for objective in ranking.objectives)
    row = Facts(search=name, objective=objectives, percent=is_share)
    some = f" of {len(views)}" if len(tests) < len(views) else ""  # one of `2 of 3` has not ended
    row.add("seeds", len(tests), f"{len(tests)}{some}")
    row |= {"runs": len(views), "merges_won": sum(winner.label is None for winner in winners)}
    factor = 100.0 if is_share else 1.0
    row.add("score", score and score.value, score.text(factor) if score else "-")
    row |= {"low": score and score.low, "high": score and score.high}
    for column, is_uniform in (("best_parent", False), ("uniform", True)):
        value = _baseline(views, is_uniform=is_uniform)
        row.add(column, value, "-" if value is None else Interval(value).text(factor))
    for column, values in (
        ("candidates", [len(view.history.candidates) for view in views]),
        ("cpu_seconds", [view.run.timings.cpu_seconds() for view in views]),
    ):
        row.add(column, fmean(values), f"{fmean(values):,.0f}")
    return row


def _baseline(views: Sequence[View], *, is_uniform: bool) -> float | None:
    """Return the mean fitness on test documents of the uniform merge, or of the best parent."""
    best = list[float]()
    for view in views:
        values = [
            view.ranking.values(scores)
            for baseline in view.history.baselines
            if (baseline.label == UNIFORM) == is_uniform
            and (scores := baseline.scores("test")) is not None
        ]
        best += max(values) if values and len(values[0]) == 1 else ()
    return fmean(best) if best else None


def runs_in_words(rows: Sequence[Facts]) -> tuple[Sequence[str], list[list[str]]]:
    """Return headers and rows for people."""
    metrics = dict[str, None]()
    for row in rows:
        metric = "fitness" if ", " in row["objective"] else row["objective"].rpartition("/")[2]
        metrics[f"{metric} in %" if row["percent"] else metric] = None
    heads = _HEADS | {"score": f"test {' or '.join(metrics)}"}
    if (fronts := sum("front" in row for row in rows)) == len(rows):  # a front has no single score
        heads = {key: head for key, head in heads.items() if key not in _OF_ONE_FITNESS}
    if fronts == 0:
        heads = {key: head for key, head in heads.items() if key not in _OF_FRONTS}
    lines = [[row.texts.get(key, str(row.get(key, "-"))) for key in heads] for row in rows]
    return [*heads.values()], lines
