"""What a search file measures: objectives and constraints."""

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import Field, model_validator

from evomerge.config.fields import Names, Rule, Section
from evomerge.scores import BASE_TEXTS, MODEL, MODEL_METRICS, NLL, TOLD, Objective


class RowsKind(NamedTuple):
    """A built-in kind of objective whose documents are rows of a file, as search files name it.

    Attributes:
        place: its class, a `RowsObjective`, as `module:Class`; all else is said there.
        key: `kind` and `encoder` are followed by its name, `classifier` by one of its metrics.
        metrics: its metrics, the default first.
    """

    place: str
    key: Literal["kind", "encoder", "classifier"] = "kind"
    metrics: tuple[str, ...] = ()


_TASKS = "evomerge.evaluation.tasks"
ROWS = {
    "sts": RowsKind(f"{_TASKS}.encoders:Sts", "encoder", ("spearman", "pearson")),
    "retrieval": RowsKind(
        f"{_TASKS}.encoders:Retrieval", "encoder", ("ndcg@10", "recall@10", "mrr@10")
    ),
    "classification": RowsKind(f"{_TASKS}.encoders:Classification", "encoder", ("accuracy",)),
    "labels": RowsKind(f"{_TASKS}.classifiers:TextLabels", "classifier", ("accuracy", "f1")),
    "pairwise": RowsKind(f"{_TASKS}.classifiers:Pairwise", "classifier", ("pairwise",)),
    "rerank": RowsKind(f"{_TASKS}.rerank:Rerank", "kind", ("ndcg@10", "mrr@10")),
}
"""The built-in kinds of rows of a file, by name. A new one needs a row here, and its class."""

_ENCODER = [name for name, row in ROWS.items() if row.key == "encoder"]
_BY_NAME = {name: row.metrics[0] for name, row in ROWS.items() if row.key != "classifier"}
_BY_METRIC = {m: name for name, row in ROWS.items() if row.key == "classifier" for m in row.metrics}

_METRIC = (
    "a metric of the task, as in lm-eval's results; `nll`: negative log-likelihood of a document's "
    "reference answer, in nats; `tokens`: generated tokens of a document; "
    "with `encoder` spearman or pearson (sts), ndcg@10, recall@10 or mrr@10 (retrieval), accuracy "
    "(classification), of which the first is the default; with `classifier` what that says; with "
    "`kind` one of its own (rerank: ndcg@10, the default, or mrr@10); "
    "without any of them `parameters` or `layers` of the merged model"
)


class MeasuredConfig(Section):
    """What an objective or a constraint measures."""

    task: str | None = None
    """task or group of lm-eval, or an objective function as `module:function`; null for a property
    of the merged model, or with `encoder`, `classifier`, `kind` or `told`"""
    encoder: Literal["sts", "retrieval", "classification"] | None = None
    """what a sentence encoder is scored on, with rows of a `file`; sts: similarity of two
    sentences; retrieval: finding passages; classification: a linear probe"""
    classifier: Literal["accuracy", "f1", "pairwise"] | None = None
    """what a model with a classification head is scored by, with rows of a `file`; accuracy: of
    texts; f1: macro F1; pairwise: how often a reward model scores the chosen answer higher than
    the rejected one"""
    kind: (
        Annotated[
            str,
            Field(pattern=r"^[\w.-]+$"),
            Names("evomerge.evaluation.objectives:added_kinds"),
        ]
        | None
    ) = None
    """rerank, how well a cross-encoder orders the passages of a query; or a kind of objective that
    an installed package adds; with rows of a `file`"""
    file: str | None = None
    """with `encoder`, `classifier` or `kind`: a file of rows, one JSON object in each line"""
    told: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = None
    """name of a score that a study is told, where your own code scores candidates
    (`evomerge.Study`)"""
    metric: str = Field("acc", description=_METRIC)

    @property
    def source(self) -> str:
        """The task; with a file its kind and the file; `model` for a property, or `told`."""
        if self.told is not None:
            return TOLD
        if self.file is not None:
            return f"{self.encoder or self.kind or 'classifier'} {PurePath(self.file).stem}"
        return MODEL if self.task is None else self.task

    @property
    def rows(self) -> str | None:
        """The name of the kind of its rows (see `ROWS`), or None."""
        return _BY_METRIC[self.classifier] if self.classifier else self.encoder or self.kind

    @model_validator(mode="before")
    @classmethod
    def _metric_of_rows(cls, data: Any) -> Any:
        if not isinstance(data, Mapping):
            return data
        name, own = data.get("encoder") or data.get("kind"), data.get("classifier")
        metric = _BY_NAME[name] if name in [*_BY_NAME] else own or data.get("told")
        return {"metric": metric, **data} if isinstance(metric, str) else data

    @property
    def measured(self) -> list[str]:
        """The keys that say what is scored, with their values; none: a property of the model."""
        names = ("classifier", "encoder", "kind", "told")
        keys = {name: getattr(self, name) for name in names}
        task = [] if self.task is None else [f"`task` {self.task!r}"]
        return task + [f"`{key}` {value}" for key, value in keys.items() if value is not None]

    rules: ClassVar[tuple[Rule, ...]] = (
        (
            lambda it: len(it.measured) > 1,
            "has the {0.measured[0]} and the {0.measured[1]}; remove one of the two",
        ),
        (
            lambda it: it.rows and it.file is None,
            "has the {0.measured[0]} without a `file`; name a file of rows, one JSON object in "
            "each line",
        ),
        (
            lambda it: it.told and it.file,
            "has the {0.measured[0]} with `file`, which has no meaning there; remove `file`",
        ),
        (
            lambda it: (own := it.classifier or it.told) is not None and it.metric != own,
            "has the {0.measured[0]} and the `metric` {0.metric}; remove `metric`",
        ),
        (
            lambda it: it.file is not None and not it.rows,
            "has the `file` {0.file!r} without an `encoder` or `classifier`; add `encoder`: "
            f"{', '.join(_ENCODER)}, or `classifier`: {', '.join(_BY_METRIC)}, or "
            "`kind`: rerank, or one that a package adds",
        ),
        (
            lambda it: it.kind in ROWS and ROWS[it.kind].key != "kind",
            "has the `kind` {0.kind}, which no package adds; take `encoder` or `classifier`",
        ),
        (
            lambda it: it.kind is not None and "metric" not in it.model_fields_set,
            "has the `kind` {0.kind} without a `metric`; name one of its metrics",
        ),
        (
            lambda it: not it.measured and it.metric not in MODEL_METRICS,
            "has the metric {0.metric!r} without a `task`; name its task, or take "
            f"{' or '.join(MODEL_METRICS)}, which are properties of the merged model",
        ),
    )


class ObjectiveConfig(MeasuredConfig):
    """One metric of one task; if lower values are better, the negative value is maximised."""

    weight: float = Field(1.0, gt=0, le=1000000.0)
    """share in the fitness, the weighted mean of all objectives"""
    goal: Literal["maximize", "minimize"] | None = None
    """null: as lm-eval defines it for the metric; nll, tokens, parameters and layers are minimized,
    told scores are maximized"""
    tie_breaker: Literal["nll"] | None = None
    """only with `mode: weighted`: of candidates of equal fitness, the one with the lower `nll` of
    the task is better; null: they are equal"""

    rules = (
        *MeasuredConfig.rules,
        (
            lambda it: it.tie_breaker is not None and it.task is None,
            "has `tie_breaker` {0.tie_breaker} without a `task`, whose reference answers it needs; "
            "remove it, or name a task",
        ),
        (
            lambda it: it.tie_breaker is not None and it.metric == NLL,
            "has `tie_breaker` {0.tie_breaker} with the metric {0.metric!r} itself, of which no "
            "ties are left to break; remove it, or take another metric",
        ),
    )

    def resolved(self, metric: str, higher_is_better: bool) -> Objective:
        """Return the objective, with the full name of its metric."""
        ties = self.tie_breaker
        return Objective(self.source, metric, self.weight, higher_is_better, tie_breaker=ties)


class AlsoConfig(MeasuredConfig):
    """What is scored on test documents besides the objectives; nothing is chosen by it."""

    texts: Annotated[int, Field(ge=8, le=10_000)] | None = None
    """instead of a task: texts that the base writes before the test, at most so many (in a search
    of few documents fewer); a model is scored by its negative log-likelihood of a token, in nats"""

    @model_validator(mode="before")
    @classmethod
    def _metric_of_texts(cls, data: Any) -> Any:
        is_of_texts = isinstance(data, Mapping) and data.get("texts") is not None
        return {"metric": NLL, **data} if is_of_texts else data

    @property
    def source(self) -> str:
        """The task; `base_texts` for texts of the base."""
        return BASE_TEXTS if self.texts is not None else super().source

    @property
    def measured(self) -> list[str]:
        """The keys that say what is scored, with their values."""
        texts = [] if self.texts is None else [f"`texts` {self.texts}"]
        return super().measured + texts

    rules = (
        *MeasuredConfig.rules,
        (
            lambda it: not it.measured,
            "has the metric {0.metric!r} without a `task`, and what a model is, which costs no "
            "scoring, can be a constraint; name a task",
        ),
        (
            lambda it: it.told is not None,
            "has the {0.measured[0]}, but no score is told in the end; name a task",
        ),
        (
            lambda it: it.texts is not None and it.metric != NLL,
            "has the `texts` {0.texts} and the `metric` {0.metric}; remove `metric`",
        ),
    )


class ConstraintConfig(MeasuredConfig):
    """Bounds of a metric: a candidate that passes one is worse than each that passes none."""

    at_least: float | None = None
    """smallest allowed value, in the metric's own unit (0.5, not 50 %)"""
    at_most: float | None = None
    """largest allowed value"""

    rules = (
        *MeasuredConfig.rules,
        (lambda it: it.at_least is None and it.at_most is None, "needs `at_least` or `at_most`"),
        (
            lambda it: None not in (it.at_least, it.at_most) and it.at_least > it.at_most,
            "has `at_least` {0.at_least:g} above `at_most` {0.at_most:g}; exchange them",
        ),
    )
