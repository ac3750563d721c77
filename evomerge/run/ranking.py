"""Rankings: from the outcomes of candidates to the incumbents, the front and the finalists."""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.config.record import Record
from evomerge.config.schema import BudgetConfig
from evomerge.run.history import Candidate, History
from evomerge.scores import (
    NLL,
    Constraint,
    Objective,
    Scores,
    Split,
    fitness,
    fitness_in_order,
    violation,
)

FINALISTS = 5
"""The usual number of finalists in a search for one fitness."""

BELIEVED_FINALISTS = 2
"""How many finalists are genomes that the strategy believed in, besides the best one."""


@dataclass(frozen=True)
class Ranking(ABC):
    """Compares candidates; higher values are better.

    Laws: the incumbents depend on the candidates, not on their order, and those of the incumbents
    and one more candidate are those of all. A candidate with an estimated score, a failure or a
    value that is not finite is never one. A candidate that keeps all constraints is better than
    each that breaks one; of two that break some, the one that breaks them less (Deb 2000).
    """

    objectives: Sequence[Objective]
    constraints: Sequence[Constraint] = ()
    has_front: ClassVar[bool]
    """Whether several candidates can be the best, none better than another."""

    @abstractmethod
    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return the values of scores, as people see them; nan if a score is nan."""

    def ordered(self, scores: Scores) -> tuple[float, ...]:
        """Return `values` with broken ties, as an optimizer is told; candidates compare by them."""
        return self.values(scores)

    @abstractmethod
    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return the best candidates on a split; none if no candidate was scored on all of it."""

    @abstractmethod
    def best(self, incumbents: Sequence[Candidate], split: Split = "search") -> Candidate | None:
        """Return the incumbent to take where one model is asked for; None if there is none."""

    def front(self, incumbents: Sequence[Candidate]) -> list[Candidate]:
        """Return the incumbents, none of which is better than another; none of a single best."""
        return list(incumbents) if self.has_front else []

    def leader(self, incumbents: Sequence[Candidate]) -> Candidate | None:
        """Return the one best candidate; None if there is none, or a front."""
        return None if self.has_front else self.best(incumbents)

    @abstractmethod
    def finalists(self, candidates: Iterable[Candidate], count: int | None) -> list[Candidate]:
        """Return the candidates to validate, the best one first, each recipe once.

        Estimated scores count too. `count` None: as many as usual.
        """

    def _scored(
        self, candidates: Iterable[Candidate], split: Split, *, estimates: bool = False
    ) -> list[tuple[Candidate, tuple[float, ...], float]]:
        """Return candidates by number, what they compare by, and by how much they break bounds."""
        return [
            (item, self.ordered(scores), violation(self.constraints, scores))
            for item in sorted(candidates, key=lambda item: item.number)
            if values_on(self, item, split) is not None
            and (scores := item.scores(split)) is not None
            and (estimates or split != "search" or not item.is_estimate)
        ]


class WeightedSum(Ranking):
    """Ranks by one number, the fitness: the weighted mean of the objectives."""

    has_front = False

    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return the fitness as the only value."""
        return (fitness(self.objectives, scores),)

    def ordered(self, scores: Scores) -> tuple[float, ...]:
        """Return the fitness, with which tie-breakers order candidates of equal fitness."""
        return (fitness_in_order(self.objectives, scores),)

    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return the best candidate, the earliest of several equal ones; or an empty list."""
        scored = self._scored(candidates, split)
        return [max(scored, key=lambda entry: (-entry[2], entry[1]))[0]] if scored else []

    def best(self, incumbents: Sequence[Candidate], split: Split = "search") -> Candidate | None:
        """Return the only incumbent."""
        return next(iter(incumbents), None)

    def finalists(self, candidates: Iterable[Candidate], count: int | None) -> list[Candidate]:
        """Return the `count` best candidates with different recipes; None: `FINALISTS`.

        Scores on fresh documents compare within a generation only. With these, finalists are the
        best candidate on all documents, the two genomes that the strategy believed in last, and the
        best candidate of each of the last generations.
        """
        scored = self._scored(candidates, "search", estimates=True)
        ranked = [item for item, *_ in sorted(scored, key=lambda row: (row[2], -row[1][0]))]
        if any(item.fresh is not None for item in ranked):
            whole = [item for item in ranked if not item.is_estimate]
            best = {item.generation: item for item in reversed(ranked) if item.is_estimate}
            latest = sorted((*whole, *best.values()), key=lambda item: -item.number)
            believed = [item for item in latest if item.is_believed][:BELIEVED_FINALISTS]
            ranked = [*whole[:1], *believed, *(item for item in latest if item.is_estimate)]
        first: dict[str, Candidate] = {}
        for item in ranked:
            first.setdefault(item.digest, item)
        return list(first.values())[: FINALISTS if count is None else count]


class ParetoFront(Ranking):
    """The incumbents are the candidates that no other dominates; of equal ones, the earliest."""

    has_front = True

    def values(self, scores: Scores) -> tuple[float, ...]:
        """Return the value of each objective."""
        return tuple(item.value(scores) for item in self.objectives)

    def incumbents(
        self, candidates: Iterable[Candidate], split: Split = "search"
    ) -> list[Candidate]:
        """Return the front, sorted by the first objective, the best one first."""
        scored = self._scored(candidates, split)
        least = min((broken for _, _, broken in scored), default=0.0)
        allowed = [(item, values) for item, values, broken in scored if broken <= least]
        first = {values: item for item, values in reversed(allowed)}
        return [first[values] for values in sorted(nondominated(first), reverse=True)]

    def best(self, incumbents: Sequence[Candidate], split: Split = "search") -> Candidate | None:
        """Return the knee of the front."""
        members = {values_on(self, item, split): item for item in incumbents}
        points = [values for values in members if values is not None]
        return members[knee(points)] if points else None

    def finalists(self, candidates: Iterable[Candidate], count: int | None) -> list[Candidate]:
        """Return the front; if `count` is less than its size, members that are far apart."""
        members = {item.values: item for item in self.incumbents(candidates) if item.values}
        chosen = list(members) if count is None else spread(list(members), count)
        return [members[values] for values in chosen]


def make_ranking(
    mode: str, objectives: Sequence[Objective], constraints: Sequence[Constraint] = ()
) -> Ranking:
    """Return the ranking of a search; `mode` is that of its search file."""
    return (ParetoFront if mode == "pareto" else WeightedSum)(objectives, constraints)


def ranking_of(record: Record) -> Ranking:
    """Return the ranking of a run."""
    return make_ranking(record.config.mode, record.objectives, record.constraints)


def measured(ranking: Ranking) -> tuple[Objective, ...]:
    """Return what tables show of a model: objectives, what constraints bound, what breaks ties."""
    keys = {item.key for item in ranking.objectives}
    bounded = {
        item.key: Objective(item.task, item.metric, higher_is_better=item.at_least is not None)
        for item in ranking.constraints
        if item.key not in keys
    }
    breaking = {
        item.tie_key: Objective(item.task, NLL, higher_is_better=False)
        for item in ranking.objectives
        if item.tie_key is not None and item.tie_key not in keys
    }
    return (*ranking.objectives, *(bounded | breaking).values())


def has_nats(ranking: Ranking) -> bool:
    """Whether nats, or a turned sign, are in the fitness, which is then shown by its scores."""
    return any(o.metric == NLL or not o.higher_is_better for o in ranking.objectives)


def best_of(history: History, ranking: Ranking) -> Candidate | None:
    """Return the winner; before there is one, the best incumbent on the search documents."""
    if history.winner is not None:
        return history.winner
    return ranking.best(ranking.incumbents(history.candidates))


def best_merge(history: History, ranking: Ranking) -> Candidate | None:
    """Return the best candidate that is no baseline, on validation documents if any is there."""
    merges = [item for item in history.candidates if item.label is None]
    best = ranking.best(ranking.incumbents(merges, "validation"), "validation")
    return best or ranking.best(ranking.incumbents(merges))


def to_test(history: History, ranking: Ranking) -> list[Candidate]:
    """Return the winner or the front, the baselines and, if one of these won, the best merge."""
    chosen = [history.winner, *history.front, *history.baselines]
    if history.winner and history.winner.label and not history.front:
        chosen.insert(1, best_merge(history, ranking))
    return list({item.number: item for item in chosen if item}.values())


def front_of(history: History, ranking: Ranking) -> list[Candidate]:
    """Return the final front; before there is one, the incumbents on the search documents."""
    return history.front or ranking.incumbents(history.candidates)


def leading(ranking: Ranking, candidates: Iterable[Candidate]) -> list[Candidate]:
    """Return the incumbents that a search goes by: those whose first scores were no estimates.

    A run of an earlier version, which raced, may have completed estimates at its end; a search that
    goes on must not know.
    """
    return ranking.incumbents(item for item in candidates if not item.was_estimate)


def reached_bounds(
    budget: BudgetConfig,
    history: History,
    ranking: Ranking,
    incumbents: Sequence[Candidate],
    hours: float,
) -> Iterator[str]:
    """Yield the names of the bounds that a search with these incumbents has reached.

    Open candidates do not count for patience and target: one of them may be better.
    """
    if budget.candidates is not None and len(history.candidates) >= budget.candidates:
        yield "candidates"
    if budget.hours is not None and hours >= budget.hours:
        yield "hours"
    candidates, patience, target = history.candidates, budget.patience, budget.target
    if patience is not None and unimproved(incumbents, candidates) >= patience:
        yield "patience"
    for best in incumbents:
        scores = best.scores("search")
        is_allowed = scores is not None and not violation(ranking.constraints, scores)
        if target is not None and is_allowed and best.values and best.values[0] >= target:
            yield "target"


def unimproved(incumbents: Iterable[Candidate], candidates: Sequence[Candidate]) -> int:
    """Return how many candidates have an outcome since the latest incumbent was proposed.

    Candidates with fresh documents, which cannot be incumbents, count when one with all documents
    comes after them.
    """
    latest = max((item.number for item in incumbents), default=-1)
    known = [item.number for item in candidates if item.first_outcome is not None]
    whole = max((number for number in known if candidates[number].fresh is None), default=-1)
    return sum(latest < number <= whole for number in known)


def values_on(ranking: Ranking, candidate: Candidate, split: Split) -> tuple[float, ...] | None:
    """Return a candidate's values on a split; None if it has none, or one is not finite."""
    if split == "search":
        return candidate.values
    scores = candidate.scores(split)
    values = ranking.values(scores) if scores else (math.nan,)
    return values if all(map(math.isfinite, values)) else None


Point: TypeAlias = tuple[float, ...]
"""The value of each objective."""


def nondominated(points: Collection[Point]) -> list[Point]:
    """Return the points, in their order, that no other one dominates."""
    rows = np.array(list(points))
    return [
        point
        for point, row in zip(points, rows, strict=True)
        if not np.any(np.all(rows >= row, axis=1) & np.any(rows > row, axis=1))
    ]


def knee(front: Sequence[Point]) -> Point:
    """Return the point nearest to the ideal point, which has the highest value of each objective.

    Objectives are scaled to their range on the front (compromise programming, Zeleny 1973).
    """
    distances = np.linalg.norm(1.0 - _scaled(front), axis=1)
    return front[int(np.argmin(np.round(distances, 12)))]


def spread(front: Sequence[Point], count: int) -> list[Point]:
    """Return `count` points of a front that are far apart, in the order of the front.

    These are the knee, the best of each objective, then each time the farthest from those taken.
    """
    if count >= len(front):
        return list(front)
    scaled = _scaled(front)
    first = [front.index(knee(front)), *np.argmax(scaled, axis=0).tolist()]
    chosen = list(dict.fromkeys(first))[:count]
    while len(chosen) < count:
        gaps = np.linalg.norm(scaled[:, None] - scaled[chosen][None], axis=2).min(axis=1)
        gaps[chosen] = -1.0
        chosen.append(int(np.argmax(gaps)))
    return [front[index] for index in sorted(chosen)]


def _scaled(front: Sequence[Point]) -> NDArray[np.float64]:
    """Return the points, each objective scaled from 0 to 1; 1 where all values are equal."""
    rows = np.array(front, dtype=float)
    low, high = rows.min(axis=0), rows.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (rows - low) / span, 1.0)
