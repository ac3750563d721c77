"""The search file: its schema, its defaults, and errors a person understands.

This is the only place with defaults. Everything that needs more than the file itself (do the
parents exist, does the method take so many) is checked by `evomerge.setup.check`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from evomerge.config.messages import sentence
from evomerge.config.yaml import read as read
from evomerge.errors import ConfigError


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _documents(value: Any) -> Any:
    if value == "all" or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise ValueError("must be a number of documents above 0, or `all`")


Documents = Annotated[int | Literal["all"], BeforeValidator(_documents)]


def _is_finite(value: Any) -> bool:
    return isinstance(value, (int, float)) and abs(value) <= sys.float_info.max


def _range(value: Any) -> Any:
    if _is_finite(value):
        return float(value)
    if (
        isinstance(value, (list, tuple))
        and len(value) == 2
        and all(_is_finite(item) and not isinstance(item, bool) for item in value)
        and value[0] < value[1]
    ):
        return (float(value[0]), float(value[1]))
    raise ValueError("must be a number (fixed) or a range [low, high] with low < high (searched)")


KnobRange = Annotated[float | tuple[float, float], BeforeValidator(_range)]


def _memory(value: Any) -> Any:
    if isinstance(value, dict) and all(
        str(number).isdigit() and isinstance(size, str) for number, size in value.items()
    ):
        return value
    raise ValueError("must map numbers of accelerators to sizes, such as {0: 20GB, 1: 40GB}")


Memory = Annotated[dict[int, str], BeforeValidator(_memory)]


class OutsideConfig(_Section):
    """Which parents give what is not a layer."""

    embeddings: str | None = None
    head: str | None = None


class SpaceConfig(_Section):
    """What is searched."""

    kind: Literal["parameters", "dataflow", "joint"] = "parameters"
    method: str | list[str] = Field(
        "task_arithmetic", description="merge method; a list makes it a gene"
    )
    groups: int | Literal["each", "one"] = Field(
        "one", description="layer groups with knobs of their own: a number, `each` or `one`"
    )
    components: list[str] = Field(
        default_factory=list, description="tensor groups with knobs of their own, e.g. attention"
    )
    embeddings: bool = Field(True, description="knobs of their own for embeddings and head")
    smooth: bool = Field(False, description="interpolate knobs over depth between groups")
    knobs: dict[str, KnobRange] = Field(
        default_factory=dict, description="a range is searched, a number is fixed"
    )
    variant: Literal["sakana", "structured", "frankenmerge", "swaps", "dropping"] = Field(
        "sakana", description="dataflow: how a path is coded"
    )
    host: str | None = Field(
        None, description="dataflow, joint: parent that gives config and ends; null: the first"
    )
    repeats: int | None = Field(
        None, ge=1, le=16, description="how often the layers are laid out; null: 2, joint 1"
    )
    scales: KnobRange = Field(
        (0.5, 1.5), description="factor on the hidden state at a hop: a range, or a fixed number"
    )
    scale_coding: Literal["auto", "matrix", "network"] = Field(
        "auto", description="sakana: W, pi_theta, or W where it is small enough"
    )
    scale_hidden: int = Field(8, ge=1, le=64, description="sakana: hidden units of pi_theta")
    ends: Literal["fixed", "free"] = Field(
        "fixed", description="whether the host's first and last layer stay the ends"
    )
    start: tuple[float, float] = Field(
        (1.0, -1.0), description="sakana: [in, out], where indicators start, in sigmas"
    )
    layers: tuple[int, int | None] = Field(
        (1, None), description="[min, max] layers of a path; null is no limit"
    )
    slices: tuple[int, int] = Field((2, 4), description="frankenmerge: [min, max] slices")
    outside: OutsideConfig | None = Field(
        None, description="dataflow: which parents give embeddings and head; null: the host"
    )

    @field_validator("groups")
    @classmethod
    def _at_least_one_group(cls, value: int | str) -> int | str:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 1 or more, `each` or `one`")
        return value

    @property
    def methods(self) -> tuple[str, ...]:
        """The merge methods, one or several."""
        return (self.method,) if isinstance(self.method, str) else tuple(self.method)


class OptimizerConfig(_Section):
    """Who proposes the genomes."""

    name: str = "cma"
    population: Annotated[int, Field(ge=2)] | Literal["auto"] = "auto"
    sigma: float = Field(1 / 6, gt=0, le=1, description="first step as a share of a gene's range")


class ObjectiveConfig(_Section):
    """One metric of one task, maximised (turned round where lower is better)."""

    task: str
    metric: str = "acc"
    weight: float = Field(1.0, gt=0)


TaskSplit = Literal["training", "validation", "test"]


class _Split(_Section):
    tasks: dict[str, str] = Field(
        default_factory=dict,
        description="task of an objective: task whose documents take the place of its own here",
    )
    task_split: TaskSplit | dict[str, TaskSplit] | None = Field(
        None,
        description="which of lm-eval's splits the documents come from, for all tasks or by task; "
        "null: the one that lm-eval evaluates on",
    )


class SearchSplit(_Split):
    """Documents that candidates are scored on."""

    documents: Documents = 200


class ValidationSplit(_Split):
    """Documents that the finalists are scored on; the winner is chosen here."""

    documents: Documents = 200
    finalists: int = Field(5, ge=1)


class TestSplit(_Split):
    """Documents that only the winner, the parents and the uniform merge are scored on."""

    documents: Documents = "all"


class RacingConfig(_Section):
    """When to stop scoring a candidate that cannot beat the best one."""

    enabled: bool | Literal["auto"] = Field(
        "auto",
        description="auto: in parameter spaces with backend hf, where every "
        "metric is a mean over documents and a candidate has at least four times `minimum` of them",
    )
    confidence: float = Field(0.98, gt=0.5, lt=1)
    minimum: int = Field(50, ge=2, description="documents scored before a candidate may stop")


class HalvingConfig(_Section):
    """Successive halving: only the better ones are scored on more documents."""

    enabled: bool = False
    first: int = Field(25, ge=1, description="documents that every candidate is scored on")
    factor: float = Field(
        4.0, gt=1, description="documents grow by it from rung to rung; the best 1 / factor climb"
    )


class IrtConfig(_Section):
    """Item-response theory: predict the score on all documents from a few informative ones."""

    enabled: bool = False
    documents: int = Field(40, ge=2, description="documents of each task that are scored")
    calibration: int = Field(
        20, ge=2, description="models scored on all documents first, parents included"
    )


class EvaluationConfig(_Section):
    """How a candidate is scored."""

    include: list[str] = Field(default_factory=list, description="folders with lm-eval task YAML")
    search: SearchSplit = SearchSplit()
    validation: ValidationSplit = ValidationSplit()
    test: TestSplit = TestSplit()
    stratify: str | None = Field(None, description="document field kept in proportion in splits")
    fewshot: int | None = Field(None, ge=0, description="null: as the task says")
    chat_template: bool = False
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    racing: RacingConfig = RacingConfig()
    halving: HalvingConfig = HalvingConfig()
    irt: IrtConfig = IrtConfig()
    backend: Literal["hf", "vllm"] = "hf"
    device: str = "auto"
    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None, description="spread the model over all accelerators; null: one device"
    )
    max_memory: Memory | None = Field(
        None, description="device_map: accelerator -> what weights may take there, e.g. {0: 20GB}"
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="transformers' attention; auto: the model's own choice"
    )

    @model_validator(mode="after")
    def _one_device_or_many(self) -> EvaluationConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"has a `device` ({self.device}) and a `device_map`, which is for all devices; "
                "remove one of them"
            )
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("has `max_memory`, which has a meaning only with a `device_map`")
        return self

    @property
    def fidelity_policy(self) -> Literal["racing", "halving", "irt"] | None:
        """The section that lets candidates be scored on fewer documents, if any is enabled."""
        if self.racing.enabled is True:
            return "racing"
        return "halving" if self.halving.enabled else "irt" if self.irt.enabled else None

    @model_validator(mode="after")
    def _one_way_to_save_documents(self) -> EvaluationConfig:
        enabled = [
            key for key in ("racing", "halving", "irt") if getattr(self, key).enabled is True
        ]
        if len(enabled) > 1:
            raise ValueError(
                f"enables {' and '.join(enabled)}, which are different ways to score on fewer "
                "documents; enable one of them"
            )
        return self


class BudgetConfig(_Section):
    """When the search stops: whichever comes first."""

    candidates: int | None = Field(None, ge=1)
    hours: float | None = Field(None, gt=0)
    target: float | None = Field(None, description="search fitness that is good enough")

    @model_validator(mode="after")
    def _some_bound(self) -> BudgetConfig:
        if self.candidates is None and self.hours is None and self.target is None:
            raise ValueError("needs a bound: candidates, hours or target")
        return self


class ExecutorConfig(_Section):
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


class Frozen(_Section):
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


class SearchConfig(_Section):
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
