"""The outcome of a candidate (scores for each document, or a failure), and the objectives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, field
from typing import Any, Literal, Self, TypeAlias

from evomerge.errors import one_line

Split: TypeAlias = Literal["search", "validation", "test"]

SPLITS: tuple[Split, ...] = ("search", "validation", "test")

Documents: TypeAlias = Mapping[str, Sequence[int]]
"""Task -> ids of its documents in one split."""

MODEL = "model"
"""The task of objectives that are properties of the merged model itself, not of its answers."""

TOLD = "told"
"""The task of scores that are told by whoever asks for candidates; they have no documents."""

BASE_TEXTS = "base_texts"
"""The task of texts that the base of a search has written itself."""

MODEL_METRICS = ("parameters", "layers")
"""Properties of a merged model: how many of these it has."""

TOKENS = "tokens"
"""The metric of a task that generates texts: mean number of generated tokens of a document."""

NLL = "nll"
"""The metric of every task of lm-eval: negative log-likelihood of a document's reference answer."""

_DIGITS, _HALF = 9, 0.5e-9
"""Decimal digits by which one fitness is equal to another, and half a unit of the last of them."""

_MOST_NATS = 1e9
"""More nats than this break no ties."""


@dataclass(frozen=True)
class Expected:
    """An estimate of the score on all documents from a part of them, and its standard error."""

    value: float
    error: float


@dataclass(frozen=True)
class Example:
    """One scored document as people read it. Long texts are cut.

    Attributes:
        answer: what the model generated, or the choice that it found most likely.
        parsed: what the task's filter made of the answer; equal to it if there is no filter.
    """

    task: str
    document: int
    prompt: str
    answer: str
    parsed: str
    target: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Scores:
    """Scores of one model on the documents of one split.

    Attributes:
        documents: task -> ids of the scored documents, in the order in which they were scored.
        values: `"task/metric"` -> one value for each document, in the order of
            `documents[task]`, as lm-eval's `process_results` returns it, in the metric's own sign.
        aggregates: `"task/metric"` -> the number that lm_eval prints, by the metric's aggregation.
        expected: `"task/metric"` -> estimate of the aggregate on all documents, if only a part of
            them was scored; empty if all were.
        oom_backoffs: how often the batch size, which can change the last bits of a score, had been
            halved because memory ran out.
        right: task -> document -> the generated answer, of documents that were answered right; only
            if descents learn from them.
        cpu_seconds: CPU seconds of each phase, all threads of the scoring process together.
        peak: largest memory of the scoring process so far, in bytes: `process`, and `accelerator`
            if it has used one.
    """

    documents: Mapping[str, tuple[int, ...]]
    values: Mapping[str, tuple[float, ...]]
    aggregates: Mapping[str, float]
    seconds: Mapping[str, float] = field(default_factory=dict)
    _: KW_ONLY
    expected: Mapping[str, Expected] = field(default_factory=dict)
    oom_backoffs: int = 0
    examples: tuple[Example, ...] = ()
    right: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    peak: Mapping[str, int] = field(default_factory=dict)

    @property
    def fidelity(self) -> dict[str, int]:
        """Number of scored documents, by task."""
        return {task: len(ids) for task, ids in self.documents.items()}

    def of_task(self, task: str) -> dict[str, tuple[float, ...]]:
        """Return the values of one task: metric -> one value for each document."""
        return {
            key.removeprefix(f"{task}/"): values
            for key, values in self.values.items()
            if key.rpartition("/")[0] == task
        }

    def to_dict(self) -> dict[str, Any]:
        """Return the scores as plain JSON, without `oom_backoffs`, `cpu_seconds` and `peak`.

        JSON has no nan and no infinity: they become None, which `from_dict` reads as nan.
        """
        plain: dict[str, Any] = {
            "documents": {task: list(ids) for task, ids in self.documents.items()},
            "values": {key: [*map(_plain, values)] for key, values in self.values.items()},
            "aggregates": {key: _plain(value) for key, value in self.aggregates.items()},
            "seconds": dict(self.seconds),
        }
        if self.expected:
            plain["expected"] = {key: asdict(estimate) for key, estimate in self.expected.items()}
        if self.examples:
            plain["examples"] = [
                {**asdict(example), "values": {k: _plain(v) for k, v in example.values.items()}}
                for example in self.examples
            ]
        if self.right:
            plain["right"] = {task: list(texts.items()) for task, texts in self.right.items()}
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Return the scores that `to_dict` turned into `data`."""
        examples = [
            {**example, "values": {k: _number(v) for k, v in example["values"].items()}}
            for example in data.get("examples", ())
        ]
        return cls(
            documents={task: tuple(ids) for task, ids in data["documents"].items()},
            values={key: tuple(map(_number, values)) for key, values in data["values"].items()},
            aggregates={key: _number(value) for key, value in data["aggregates"].items()},
            seconds=dict(data.get("seconds", {})),
            expected={key: Expected(**plain) for key, plain in data.get("expected", {}).items()},
            examples=tuple(Example(**example) for example in examples),
            right={task: dict(texts) for task, texts in data.get("right", {}).items()},
        )


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


@dataclass(frozen=True)
class Failure:
    """Why a candidate has no scores; failures that differ only in their times are equal.

    The stage is `merge` or `evaluate`, `timeout` if it took too long, `lost` if its process died.
    """

    stage: str
    reason: str
    _: KW_ONLY
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    peak: Mapping[str, int] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "reason", one_line(self.reason))


Outcome: TypeAlias = Scores | Failure


@dataclass(frozen=True)
class _Measure:
    task: str
    metric: str

    @property
    def key(self) -> str:
        """Key into `Scores.values` and `Scores.aggregates`."""
        return f"{self.task}/{self.metric}"


@dataclass(frozen=True)
class Objective(_Measure):
    """A metric of a task that a search optimizes.

    The metric has its filter if it has several (`exact_match,strict-match`); its weight in the mean
    of the objectives is above 0. The tie-breaker is the metric that orders candidates of equal
    fitness (`nll`, lower is better).
    """

    weight: float = 1.0
    higher_is_better: bool = True
    _: KW_ONLY
    tie_breaker: str | None = None

    def value(self, scores: Scores) -> float:
        """Return the aggregate or its estimate; its sign is such that higher is better."""
        estimate = scores.expected.get(self.key)
        raw = scores.aggregates[self.key] if estimate is None else estimate.value
        return raw if self.higher_is_better else -raw

    @property
    def tie_key(self) -> str | None:
        """Key of the tie-breaker into `Scores.aggregates`."""
        return None if self.tie_breaker is None else f"{self.task}/{self.tie_breaker}"

    @property
    def is_exact(self) -> bool:
        """Whether it is a property of the model, which has no error from a choice of documents."""
        return self.task == MODEL


@dataclass(frozen=True)
class Constraint(_Measure):
    """Bounds of a metric, which a candidate must keep."""

    at_least: float | None = None
    at_most: float | None = None

    def violation(self, scores: Scores) -> float:
        """Return by how much a bound is passed, as a share of the bound (of 0: the distance).

        A metric that is not a finite number gives infinity.
        """
        value = scores.aggregates[self.key]
        if not math.isfinite(value):
            return math.inf
        low, high = self.at_least, self.at_most
        if low is not None and value < low:
            return (low - value) / (abs(low) or 1.0)
        if high is not None and value > high:
            return (value - high) / (abs(high) or 1.0)
        return 0.0

    @property
    def text(self) -> str:
        """The bounds in words: `my_task/acc >= 0.5`."""
        low = [] if self.at_least is None else [f">= {self.at_least:g}"]
        high = [] if self.at_most is None else [f"<= {self.at_most:g}"]
        return f"{self.key} {' and '.join(low + high)}"


def violation(constraints: Sequence[Constraint], scores: Scores) -> float:
    """Return by how much constraints are broken together; 0 if all are kept."""
    return math.fsum(item.violation(scores) for item in constraints)


def fitness(objectives: Sequence[Objective], scores: Scores) -> float:
    """Return the weighted mean of the objectives, sum(w_i v_i) / sum(w_i); nan if not finite."""
    total = sum(objective.weight for objective in objectives)
    value = sum(objective.weight * objective.value(scores) for objective in objectives) / total
    return value if math.isfinite(value) else math.nan


def fitness_in_order(objectives: Sequence[Objective], scores: Scores) -> float:
    """Return the fitness with a small addition that orders candidates of equal fitness.

    An optimizer takes one number, so the pair (fitness, weighted mean of the tie-breakers) becomes
    one. Fitness values are equal here if they are so to nine decimal digits: shares of fewer than a
    billion documents differ by more, and the same mean of several tasks may differ by rounding. The
    addition is at most half a unit of the ninth digit, so a worse fitness is always the lower
    number. It falls with the logarithm of the nats, by which small and large ones are told apart.
    Without tie-breakers it is the fitness.
    """
    value = fitness(objectives, scores)
    ties = [(item.weight, item.tie_key) for item in objectives if item.tie_key is not None]
    if not ties or not math.isfinite(value):
        return value
    total = sum(weight for weight, _ in ties)
    nats = sum(weight * scores.aggregates[key] for weight, key in ties) / total
    worse = min(1.0, math.log1p(nats) / math.log1p(_MOST_NATS))
    return round(value, _DIGITS) + _HALF * (1 - worse)


def fitness_error(objectives: Sequence[Objective], scores: Scores) -> float | None:
    """Return the standard error of an estimated fitness, or None if all documents were scored.

    Errors of tasks are independent. The metrics of one task share their documents, so their errors
    are added, as if they were fully correlated.
    """
    if not scores.expected:
        return None
    total = sum(objective.weight for objective in objectives)
    by_task: dict[str, float] = {}
    for objective in objectives:
        estimate = scores.expected.get(objective.key)
        error = 0.0 if estimate is None else objective.weight / total * estimate.error
        by_task[objective.task] = by_task.get(objective.task, 0.0) + error
    return math.hypot(*by_task.values())
