"""The section `evaluation`: how candidates are scored, on which documents, by which engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from evomerge.config.fields import Documents, FilePath, Rule, Section
from evomerge.config.objectives import AlsoConfig
from evomerge.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What runs models; by itself, transformers.

    Attributes:
        name: the value of `evaluation.backend`.
        title: what it is called in sentences.
        rules: rules that the section `evaluation` must keep with it.
        is_separate: whether it generates texts with a copy of the model, as deep as the deepest
            candidate, on an accelerator of its own.
        memory_share: share of the accelerator's memory that it takes.
    """

    name: str
    title: str
    rules: tuple[Rule, ...] = ()
    is_separate: bool = False
    memory_share: float = 0.0

    def check(self) -> None:
        """Raise a ConfigError if it is not installed."""

    def versions(self) -> Mapping[str, str]:
        """Return the version of each package that only this engine needs."""
        return {}

    def start(self, deepest: Callable[[], Any], tokenizer: Any, tensor_parallel: int) -> Any:
        """Return a running engine, which is kept for later models; None: nothing is to be kept.

        Args:
            deepest: returns the model with as many blocks as a candidate can have.
            tokenizer: the tokenizer of all models.
            tensor_parallel: accelerators that it is divided over.
        """
        return None


TRANSFORMERS = Engine(
    name="hf",
    title="transformers",
    rules=(
        (
            lambda it: it.tensor_parallel > 1,
            "has `tensor_parallel` {0.tensor_parallel}, which only `backend: vllm` knows; with "
            "`backend: hf`, `device_map: auto` divides a model over accelerators",
        ),
    ),
)

ENGINES: Registry[Engine] = Registry(
    "engine",
    "",
    {
        "hf": "evomerge.config.evaluation:TRANSFORMERS",
        "vllm": "evomerge.evaluation.inference.vllm_kind:VLLM",
    },
)
"""The engines by `evaluation.backend`; no other package adds one."""

TaskSplit = Literal["training", "validation", "test"]

_NUMBER = "number of documents of each task, or all that no other split takes"


class _Split(Section):
    tasks: dict[str, str] = Field(default_factory=dict)
    """task of an objective -> task whose documents are used instead in this split"""
    task_split: TaskSplit | dict[str, TaskSplit] | None = None
    """which of lm-eval's splits the documents come from, for all tasks or by task; null: the split
    that lm-eval evaluates on"""


class SearchSplit(_Split):
    """The documents that candidates are scored on."""

    documents: Documents | Literal["auto"] = Field(
        200,
        description="number of documents of each task, or all that no other split takes; auto: "
        "200, of which a candidate is scored on few where that found merges as good in less time",
    )
    fresh: Annotated[int, Field(ge=1, le=10**9)] | Literal["auto"] | None = "auto"
    """each generation is scored on so many of the documents of each task, drawn anew; null: all
    candidates are scored on all of them; auto: null, unless `documents` is auto, too"""


class ValidationSplit(_Split):
    """The documents that finalists are scored on, to choose the winner."""

    documents: Documents = Field(200, description=_NUMBER)
    finalists: Annotated[int, Field(ge=1)] | None = None
    """best candidates on the search documents that are scored here; null: 5, or with `mode: pareto`
    the whole front"""


class TestSplit(_Split):
    """The documents that only the winner, the parents and the uniform merge are scored on."""

    documents: Documents = Field("all", description=_NUMBER)


class RacingConfig(Section):
    """Racing of earlier versions, which `search.documents: auto` replaces: false or auto."""

    enabled: bool | Literal["auto"] = "auto"
    """false or auto, which have no effect; true is refused"""
    confidence: float = Field(0.8, gt=0.5, lt=1)
    """no effect"""
    minimum: int = Field(25, ge=2)
    """no effect"""


class GenerationConfig(Section):
    """Changes to the generation_kwargs of all tasks, as by lm-eval's --gen_kwargs."""

    do_sample: bool | None = None
    """draw tokens at random; false: always take the likeliest one"""
    temperature: float | None = Field(None, ge=0, le=100)
    """divides the logits before a token is drawn"""
    top_k: int | None = Field(None, ge=0, le=10**9)
    """only so many of the likeliest tokens can be drawn; 0: all"""
    top_p: float | None = Field(None, gt=0, le=1)
    """only the likeliest tokens of this total probability"""
    min_p: float | None = Field(None, ge=0, le=1)
    """only tokens with this share of the highest probability"""
    max_gen_toks: int | None = Field(None, ge=1, le=10**9)
    """largest number of new tokens"""

    rules = (
        *(
            (
                lambda it, key=key: getattr(it, key) and not it.do_sample,
                f"has `{key}` {{0.{key}:g}} without `do_sample`, so it would change nothing in "
                "tasks that decode greedily; add `do_sample: true`",
            )
            for key in ("temperature", "top_k", "top_p", "min_p")
        ),
        (
            lambda it: it.do_sample and it.temperature == 0,
            "has `do_sample: true` with `temperature` 0, which nothing can be drawn with; set "
            "`temperature` above 0, or `do_sample` to false",
        ),
    )

    @property
    def changes(self) -> dict[str, Any]:
        """The keys that are set."""
        return self.model_dump(exclude_none=True)


class EvaluationConfig(Section):
    """How candidates are scored, on which documents."""

    include: list[FilePath] = Field(default_factory=list)
    """folders with lm-eval task YAML"""
    search: SearchSplit = SearchSplit()
    """candidates are compared on these"""
    validation: ValidationSplit = ValidationSplit()
    """the winner is chosen on these"""
    test: TestSplit = TestSplit()
    """nothing is chosen on these"""
    also: list[AlsoConfig] = Field(default_factory=list)
    """what winner, parents and base are scored on besides, to see what was lost; only on test
    documents, and nothing is chosen by it"""
    fewshot: int | None = Field(None, ge=0, le=1000)
    """few-shot examples; null: the number in the task"""
    chat_template: bool = False
    """apply the tokenizer's chat template to prompts, as lm-eval does"""
    enable_thinking: bool | None = None
    """with chat_template: whether the template turns reasoning on, as in lm-eval; null: as the
    template does by itself"""
    think_end_token: str | int | None = None
    """what ends the reasoning in a generated text, such as '</think>', or the id of this token;
    only the text behind it is read as the answer"""
    generation: GenerationConfig = GenerationConfig()
    """how tasks generate texts; null: as the task says"""
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = "auto"
    """largest number of rows in a batch; 1 gives lm-eval's bits in any dtype"""
    racing: RacingConfig = RacingConfig()
    """no effect: `search.documents: auto` takes its place"""
    backend: Literal["hf", "vllm"] = "hf"
    """what generates texts: transformers, or a vLLM engine"""
    tensor_parallel: int = Field(1, ge=1, le=64)
    """with backend vllm: accelerators that an engine is divided over"""
    device: str = "auto"
    """auto: an accelerator if there is one; cpu, cuda, cuda:1, mps"""
    device_map: Literal["auto"] | None = None
    """auto: spread the model over all accelerators; null: one device"""
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = "auto"
    """CPU threads that score a model; auto: one for a small model, else all"""
    float32: bool | Literal["auto"] = "auto"
    """compute in float32 with weights that are rounded to `dtype`; auto: on a processor that is
    slower in `dtype`"""
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = "auto"
    """transformers' attention; auto: the model's own choice"""

    rules = (
        (
            lambda it: it.enable_thinking is not None and not it.chat_template,
            "has `enable_thinking` {0.enable_thinking} without a chat template, which it is an "
            "option of; set `chat_template` to true",
        ),
        (
            lambda it: it.enable_thinking and it.think_end_token is None,
            "has `enable_thinking` true, so answers come behind a text of reasoning; set "
            "`think_end_token` to what ends it, such as '</think>'",
        ),
        (
            lambda it: it.device_map is not None and it.device != "auto",
            "has a `device` ({0.device}) and a `device_map`, which uses all devices; remove one of "
            "them",
        ),
    )

    @property
    def engine(self) -> Engine:
        """The engine of `backend`."""
        return ENGINES.get(self.backend)

    @property
    def every_rule(self) -> tuple[Rule, ...]:
        """The rules of the engine, then the rules of every engine."""
        return (*self.engine.rules, *self.rules)
