"""What a search file measures: objectives and constraints."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from evomerge.config.fields import Section
from evomerge.scores import (
    CLASSIFIER_METRICS,
    ENCODER_METRICS,
    MODEL,
    MODEL_METRICS,
    NLL,
    TOLD,
)

_METRIC = (
    "a metric of the task, as in lm-eval's results; `nll`: negative log-likelihood of a document's "
    "reference answer, in nats; `tokens`: generated tokens of a document; "
    "with `encoder` spearman or pearson (sts), ndcg@10, recall@10 or mrr@10 (retrieval), accuracy "
    "(classification), of which the first is the default; with `classifier` what that says; "
    "without any of them `parameters` or `layers` of the merged "
    "model"
)


class MeasuredConfig(Section):
    """What an objective or a constraint measures."""

    task: str | None = Field(
        None,
        description="task or group of lm-eval, or an objective function as `module:function`; "
        "null for a property of the merged model, or with `encoder`, `classifier` or `told`",
    )
    encoder: Literal["sts", "retrieval", "classification"] | None = Field(
        None,
        description="what a sentence encoder is scored on, with rows of a `file`; sts: similarity "
        "of two sentences; retrieval: finding passages; classification: a linear probe",
    )
    classifier: Literal["accuracy", "f1", "pairwise"] | None = Field(
        None,
        description="what a model with a classification head is scored by, with rows of a `file`; "
        "accuracy: of texts; f1: macro F1; pairwise: how often a reward model scores the "
        "chosen answer higher than the rejected one",
    )
    file: str | None = Field(
        None,
        description="with `encoder` or `classifier`: a file of rows, one JSON object in each line",
    )
    told: Annotated[str, Field(pattern=r"^[\w.-]+$")] | None = Field(
        None,
        description="name of a score that a study is told, where your own code scores "
        "candidates (`evomerge.Study`)",
    )
    metric: str = Field("acc", description=_METRIC)

    @property
    def source(self) -> str:
        """The task; with a file its kind and the file; `model` for a property, or `told`."""
        if self.told is not None:
            return TOLD
        if self.file is not None:
            return f"{self.encoder or 'classifier'} {PurePath(self.file).stem}"
        return MODEL if self.task is None else self.task

    @property
    def rows(self) -> str | None:
        """What its rows are: a kind of `encoder`, `labels`, `pairwise`; None."""
        if self.classifier is None:
            return self.encoder
        return "pairwise" if self.classifier == "pairwise" else "labels"

    @model_validator(mode="before")
    @classmethod
    def _metric_of_rows(cls, data: Any) -> Any:
        if isinstance(data, Mapping):
            kind, wanted = data.get("encoder"), data.get("classifier")
            if isinstance(kind, str) and kind in ENCODER_METRICS:
                return {"metric": ENCODER_METRICS[kind][0], **data}
            if isinstance(wanted, str):
                return {"metric": wanted, **data}
            if isinstance(data.get("told"), str):
                return {"metric": data["told"], **data}
        return data

    @model_validator(mode="after")
    def _has_a_task(self) -> Self:
        given = {
            "encoder": self.encoder,
            "classifier": self.classifier,
            "told": self.told,
        }
        own = [(key, kind) for key, kind in given.items() if kind is not None]
        for key, kind in own:
            others = [name for name in ("task", *given) if name != key and getattr(self, name)]
            if others:
                raise ValueError(
                    f"has the `{others[0]}` {getattr(self, others[0])!r} and the `{key}` {kind}; "
                    "remove one of the two"
                )
            needs_file = key != "told"
            if needs_file and self.file is None:
                raise ValueError(
                    f"has the `{key}` {kind} without a `file`; name a file of rows, one JSON "
                    "object in each line"
                )
            if not needs_file and self.file is not None:
                raise ValueError(
                    f"has the `{key}` {kind} with `file`, which has no meaning there; remove `file`"
                )
            if key in ("classifier", "told") and self.metric != kind:
                raise ValueError(
                    f"has the `{key}` {kind} and the `metric` {self.metric}; remove `metric`"
                )
        if own:
            return self
        if self.file is not None:
            raise ValueError(
                f"has the `file` {self.file!r} without an `encoder` or `classifier`; add "
                f"`encoder`: {', '.join(ENCODER_METRICS)}, or `classifier`: "
                f"{', '.join(CLASSIFIER_METRICS)}"
            )
        if self.task is None and self.metric not in MODEL_METRICS:
            raise ValueError(
                f"has the metric {self.metric!r} without a `task`; name its task, or take "
                f"{' or '.join(MODEL_METRICS)}, which are properties of the merged model"
            )
        return self


class ObjectiveConfig(MeasuredConfig):
    """One metric of one task; if lower values are better, the negative value is maximised."""

    weight: float = Field(
        1.0, gt=0, le=1e6, description="share in the fitness, the weighted mean of all objectives"
    )
    goal: Literal["maximize", "minimize"] | None = Field(
        None,
        description="null: as lm-eval defines it for the metric; nll, tokens, parameters and "
        "layers are minimized, told scores are maximized",
    )
    tie_breaker: Literal["nll"] | None = Field(
        None,
        description="only with `mode: weighted`: of candidates of equal fitness, the one with the "
        "lower `nll` of the task is better; null: they are equal",
    )

    @model_validator(mode="after")
    def _can_break_ties(self) -> Self:
        if self.tie_breaker is None:
            return self
        if self.task is None:
            raise ValueError(
                f"has `tie_breaker` {self.tie_breaker} without a `task`, whose reference answers "
                "it needs; remove it, or name a task"
            )
        if self.metric == NLL:
            raise ValueError(
                f"has `tie_breaker` {self.tie_breaker} with the metric {self.metric!r} itself, of "
                "which no ties are left to break; remove it, or take another metric"
            )
        return self


class ConstraintConfig(MeasuredConfig):
    """Bounds of a metric: a candidate that passes one is worse than each that passes none."""

    at_least: float | None = Field(
        None, description="smallest allowed value, in the metric's own unit (0.5, not 50 %)"
    )
    at_most: float | None = Field(None, description="largest allowed value")

    @model_validator(mode="after")
    def _has_a_bound(self) -> ConstraintConfig:
        low, high = self.at_least, self.at_most
        if low is None and high is None:
            raise ValueError("needs `at_least` or `at_most`")
        if low is not None and high is not None and low > high:
            raise ValueError(f"has `at_least` {low:g} above `at_most` {high:g}; exchange them")
        return self
