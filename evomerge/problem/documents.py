"""How many search documents a candidate is scored on, and whether each generation has others.

A strategy like CMA-ES compares the candidates of one generation only. So these may be scored on the
same few documents, and the next generation on others, as in training by minibatches: many cheap
generations find better merges than few expensive ones, and none can fit one sample
(docs/documents.md). A score on a sample is an estimate, so the best candidate is sought elsewhere:
now and then the strategy is asked for the genome that it believes in, which is scored on all search
documents.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.objectives import kinds_of
from evomerge.evaluation.tasks.objective import Objective as Kind
from evomerge.problem.problem import Problem
from evomerge.problem.tasks import USUAL, find_splits, in_order, leaves_of
from evomerge.scores import Documents, Expected, Objective, Scores, Split

BELIEF = 10
"""Generations after which the genome that the strategy believes in is scored on all documents.
Fewer, if they are large: as many as together score `BELIEF` times the number of all documents."""

FRESH, FEWER = 25, 12
"""Documents of a generation, of all tasks together. With `MANY` candidates there are fewer: these
found merges as good as 200 fixed documents with 100 candidates, and scored a third of the documents
(docs/documents.md). In shorter searches, and in those of `MOST` candidates, 25 documents found
better merges."""

FEW, MANY, MOST = 100, 400, 700
"""Candidates of a usual search, of one by fresh documents, which scores fewer documents, and of a
long one by these."""

_LEAST = 4  # documents of each task

RACED = (
    "{0}, but racing is gone, since `evaluation.search.documents: auto` saves more documents "
    "(docs/documents.md); {1}"
)


def resolve_documents(
    config: SearchConfig, objectives: Sequence[Objective], evaluator: Evaluator
) -> tuple[SearchConfig, Mapping[Split, Documents], str]:
    """Return the search file with numbers of search documents in place of `auto`, and the splits.

    The text says on which documents a candidate is scored, and why. Documents are not fresh where
    `auto` would give half of them or more to a generation. The order must be resolved before.

    Args:
        objectives: with full metric names.
        evaluator: has the tasks.

    ConfigError: the search file asks for fresh documents that do not suit it, for racing, or for
    more documents than a task has.
    """
    if config.evaluation.racing.enabled is True:
        raise ConfigError(RACED.format("`evaluation.racing.enabled` is true", "set it to false"))
    search, reason = config.evaluation.search, next(_fixed(config, objectives, evaluator), None)
    if isinstance(search.fresh, int) and reason is not None:
        raise ConfigError(
            f"`evaluation.search.fresh` is {search.fresh}, which draws documents anew for each "
            f"generation, but {reason}; set it to null."
        )
    fresh, is_auto = search.fresh, search.documents == "auto"
    if fresh == "auto":
        fresh = _sample(config, evaluator) if is_auto and reason is None else None
    size = USUAL if fresh is not None else _search_size(config, evaluator)
    splits = find_splits(config, evaluator, size)
    counts = [len(ids) for ids in splits["search"].values()]
    count, why = max(counts, default=0), reason or "the search file says it"
    if fresh is not None and search.fresh == "auto" and 2 * fresh >= count:
        fresh, why = None, "a generation would have half of them or more"
    elif fresh is not None and fresh >= count:
        raise ConfigError(
            f"`evaluation.search.fresh` is {fresh}, but there are {count} search documents of a "
            "task, so each generation would have all; lower it, or set it to null."
        )
    which = f"{sum(counts)} documents, the same for all"
    if fresh is not None:
        some = sum(min(fresh, each) for each in counts)
        which = f"{some} of {sum(counts)} documents a candidate, others for each generation"
        why = f"{config.optimizer.name} compares candidates of one generation only"
    settled = _with(config, fresh=fresh, **({"documents": count} if is_auto else {}))
    return settled, splits, f"{which}: {why}"


def _search_size(config: SearchConfig, evaluator: Evaluator) -> int:
    """Return how many documents of each task `documents: auto` takes, if they are not fresh."""
    suits = not config.is_study and all(kind.is_divisible for kind in _steering(config))
    count = config.optimizer.few_documents if suits else None
    return USUAL if count is None else _of_each(count, config, evaluator)


def fresh_documents(problem: Problem) -> FreshDocuments | None:
    """Return what draws the documents of each generation; None: all candidates have the same."""
    count, seed = problem.config.evaluation.search.fresh, problem.config.seed
    return FreshDocuments(problem.splits["search"], count, seed) if isinstance(count, int) else None


def search_by_fresh_documents(problem: Problem) -> Problem | None:
    """Return the same search on fresh documents, with more candidates.

    None: it is one already, such documents do not suit it, or its optimizer was not compared.
    """
    config, budget = problem.config, problem.config.budget
    optimizer = config.optimizer.with_fresh_documents(problem)
    if config.is_fresh or optimizer is None:
        return None
    candidates = budget.candidates and max(budget.candidates, MANY)
    config = config.model_copy(update={"optimizer": optimizer})
    config = config.with_values("executor", order="generation")
    config = config.with_values("budget", candidates=candidates)
    if any(True for _ in _fixed(config, problem.objectives, problem.evaluator)):
        return None
    config = _with(config, fresh=_sample(config, problem.evaluator))
    return replace(problem, config=config, loaded=problem.evaluator)


@dataclass(frozen=True)
class FreshDocuments:
    """Draws the documents of each generation.

    Attributes:
        pool: task -> ids of all search documents.
        count: number of documents of each task in a sample.
        seed: determines the samples, with the number of the generation.
    """

    pool: Documents
    count: int
    seed: int = 0

    def sample(self, generation: int, count: int) -> dict[str, tuple[int, ...]]:
        """Return `count` documents of each task for a generation: task -> ascending ids."""
        drawn = {}
        for task, ids in self.pool.items():
            order = in_order(len(ids), f"{self.seed}/fresh/{generation}/{task}")
            drawn[task] = tuple(sorted(ids[place] for place in order[:count]))
        return drawn

    def generations_to_mean(self, size: int) -> int:
        """Return after how many generations the genome that the strategy believes in is scored.

        `size`: number of candidates of a generation.
        """
        documents = sum(map(len, self.pool.values()))
        sample = sum(min(self.count, len(ids)) for ids in self.pool.values())
        return min(BELIEF, -(-BELIEF * documents // (size * sample)))

    def estimate(self, scores: Scores) -> Scores:
        """Return scores on a sample with what they say about all documents (`Scores.expected`)."""
        expected = {}
        for key, values in scores.values.items():
            total = len(self.pool[key.rpartition("/")[0]])
            expected[key] = Expected(scores.aggregates[key], standard_error(values, total))
        return replace(scores, expected=expected)


def standard_error(values: Sequence[float], total: int) -> float:
    """Return the standard error of the mean of a sample of `total` documents.

    Shares get two right answers and two wrong ones more, as twelve right answers of twelve do not
    mean that all others are right (Agresti and Coull 1998).
    """
    is_share = all(0 <= value <= 1 for value in values)
    known = [*values, 0.0, 0.0, 1.0, 1.0] if is_share else values
    count, mean = len(known), math.fsum(known) / len(known)
    spread = math.fsum((value - mean) ** 2 for value in known)
    of_one = spread / (count if is_share else max(1, count - 1))
    return math.sqrt(of_one / count * (1 - len(values) / total))


def restricted(scores: Scores, documents: Documents) -> Scores:
    """Return scores on some of their documents; metrics must be means over documents."""
    values = {}
    for key, column in scores.values.items():
        task = key.rpartition("/")[0]
        chosen = set(documents[task])
        pairs = zip(scores.documents[task], column, strict=True)
        values[key] = tuple(value for document, value in pairs if document in chosen)
    means = {key: sum(column) / len(column) for key, column in values.items()}
    ids = {task: tuple(documents[task]) for task in scores.documents}
    return replace(scores, documents=ids, values=values, aggregates={**scores.aggregates, **means})


def _with(config: SearchConfig, **values: Any) -> SearchConfig:
    search = config.evaluation.search.model_copy(update=values)
    return config.with_values("evaluation", search=search)


def _sample(config: SearchConfig, evaluator: Evaluator) -> int:
    """Return how many documents of each task a generation has; without `candidates`, `FRESH`."""
    are_fewer = MANY <= (config.budget.candidates or 0) < MOST
    return _of_each(FEWER if are_fewer else FRESH, config, evaluator)


def _of_each(count: int, config: SearchConfig, evaluator: Evaluator) -> int:
    """Return the documents of each task, if there are so many of all tasks together."""
    tasks = leaves_of(config, evaluator.tasks_of("search").info, "search")
    return max(_LEAST, -(-count // max(1, len(tasks))))


def _steering(config: SearchConfig) -> list[type[Kind]]:
    """Return the classes of what candidates are compared by."""
    return kinds_of(config.with_values("evaluation", also=[]))


def _fixed(
    config: SearchConfig, objectives: Sequence[Objective], evaluator: Evaluator
) -> Iterator[str]:
    """Yield why all candidates of a search must be scored on the same documents."""
    kinds = _steering(config)
    if config.is_study:
        yield "its scores are told"
    if (reason := config.optimizer.needs_same_documents) is not None:
        yield reason
    if config.executor.order == "arrival":
        yield "`executor.order` is arrival, which has no generations"
    if config.beside_fitness is not None:
        yield config.beside_fitness
    if config.evaluation.engine.is_separate:
        yield f"`evaluation.backend` is {config.evaluation.backend}"
    if not all(kind.is_divisible and not kind.is_foreign for kind in kinds):
        yield "documents of an objective are not scored one by one"
    info = evaluator.tasks_of("search").info
    for objective in objectives:
        task, metric = objective.task, objective.metric
        if objective.is_exact or not info.metric(task, metric)[1].is_mean:
            yield f"{objective.key} is not a mean over documents"
