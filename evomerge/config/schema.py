"""The search file: its schema, its defaults, and errors a person understands.

This room is the only place with defaults. Everything that needs more than the file itself (do the
parents exist, does the method take so many) is checked by `evomerge.setup.check`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.fields import Section
from evomerge.config.messages import sentence
from evomerge.config.space import SpaceConfig
from evomerge.config.yaml import read as read
from evomerge.errors import ConfigError


class OptimizerConfig(Section):
    """Who proposes the genomes."""

    name: str = "cma"
    population: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    sigma: float = Field(1 / 6, gt=0, le=1, description="first step as a share of a gene's range")


class ObjectiveConfig(Section):
    """One metric of one task, maximised (turned round where lower is better)."""

    task: str
    metric: str = "acc"
    weight: float = Field(1.0, gt=0)


class BudgetConfig(Section):
    """When the search stops: whichever comes first."""

    candidates: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)
    target: float | None = Field(None, description="search fitness that is good enough")

    @model_validator(mode="after")
    def _some_bound(self) -> BudgetConfig:
        if self.candidates is None and self.hours is None and self.target is None:
            raise ValueError("needs a bound: candidates, hours or target")
        return self


class ExecutorConfig(Section):
    """Where candidates are built and scored."""

    kind: Literal["inline", "processes", "ray"] = "inline"
    workers: int = Field(1, ge=1)
    timeout: float | None = Field(None, gt=0, description="seconds a candidate may take")
    order: Literal["auto", "generation", "arrival"] = Field(
        "auto",
        description="when outcomes are told: once a generation is complete, or as they come; "
        "auto: generation where the optimizer has generations",
    )
    together: bool | None = Field(
        None,
        description="inline: score a generation's paths together, what they share once; null: "
        "for data-flow spaces without scales that are scored on all documents",
    )


class Frozen(Section):
    """What a run adds to its search file: versions, fingerprints, document ids, directions."""

    versions: dict[str, str] = Field(default_factory=dict)
    parents: dict[str, str] = Field(default_factory=dict)
    models: dict[str, str] = Field(
        default_factory=dict, description="`run:` parent -> first digits of its recipe's digest"
    )
    documents: dict[str, dict[str, list[Annotated[int, Field(ge=0)]]]] = Field(default_factory=dict)
    sources: dict[str, dict[str, str]] = Field(
        default_factory=dict, description="split -> task -> where its document ids count"
    )
    lower_is_better: list[str] = Field(default_factory=list)
    genes: list[str] = Field(default_factory=list)
    allow_pickle: bool = False


class SearchConfig(Section):
    """A search file."""

    seed: int = Field(0, ge=0)
    parents: list[str] = Field(min_length=1)
    base: str | None = None
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    tokenizer: str = "base"
    space: SpaceConfig = SpaceConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    objectives: list[ObjectiveConfig] = Field(min_length=1)
    mode: Literal["weighted", "pareto"] = "weighted"
    evaluation: EvaluationConfig = EvaluationConfig()
    budget: BudgetConfig = BudgetConfig(candidates=300)
    executor: ExecutorConfig = ExecutorConfig()
    frozen: Frozen | None = None

    @field_validator("parents")
    @classmethod
    def _distinct(cls, value: list[str]) -> list[str]:
        for item in value:
            if value.count(item) > 1:
                raise ValueError(f"names {item!r} twice; each parent must stand once")
        return value


def parse(data: Any, source: str) -> SearchConfig:
    """Turn the content of a search file into a `SearchConfig`.

    Raises:
        ConfigError: the first mistake, as one sentence that names `source`, key and value.
    """
    if not isinstance(data, Mapping):
        raise ConfigError(f"{source} is not a search file: it must be a YAML mapping of keys.")
    try:
        return SearchConfig.model_validate(data)
    except ValidationError as error:
        raise ConfigError(f"{source}: {sentence(error, data, SearchConfig)}") from None


def load(path: Path, overrides: list[str] | None = None) -> SearchConfig:
    """Read a search file, with `key.path=value` overrides.

    Raises:
        ConfigError: the file cannot be read, or says something that is not allowed.
    """
    data = read(path, overrides)
    if "stages" in data:
        raise ConfigError(
            f"{path} has `stages`; only `evomerge search` and `evomerge resume` run stages."
        )
    return parse(data, str(path))
