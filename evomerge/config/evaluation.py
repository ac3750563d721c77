"""The section `evaluation` of a search file: how candidates are scored, on which documents."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from evomerge.config.fields import Documents, Section

TaskSplit = Literal["training", "validation", "test"]


_NUMBER = "number of documents of each task, or all that no other split takes"


class _Split(Section):
    tasks: dict[str, str] = Field(
        default_factory=dict,
        description="task of an objective -> task whose documents are used instead in this split",
    )
    task_split: TaskSplit | dict[str, TaskSplit] | None = Field(
        None,
        description="which of lm-eval's splits the documents come from, for all tasks or by task; "
        "null: the split that lm-eval evaluates on",
    )


class SearchSplit(_Split):
    """The documents that candidates are scored on."""

    documents: Documents = Field(200, description=_NUMBER)


class ValidationSplit(_Split):
    """The documents that finalists are scored on, to choose the winner."""

    documents: Documents = Field(200, description=_NUMBER)
    finalists: Annotated[int, Field(ge=1)] | None = Field(
        None,
        description="best candidates on the search documents that are scored here; null: 5, or "
        "with `mode: pareto` the whole front",
    )


class TestSplit(_Split):
    """The documents that only the winner, the parents and the uniform merge are scored on."""

    documents: Documents = Field("all", description=_NUMBER)


class RacingConfig(Section):
    """Racing: a candidate that is unlikely to beat the best one is scored on fewer documents."""

    enabled: bool | Literal["auto"] = Field(
        "auto",
        description="auto: where it saves time, that is in parameter spaces with backend hf, where "
        "every metric is a mean over documents and these make three samples that fill batches",
    )
    confidence: float = Field(
        0.98, gt=0.5, lt=1, description="probability of being worse at which a candidate is stopped"
    )
    minimum: int = Field(
        50,
        ge=2,
        description="documents that are scored before a candidate may be stopped, and again before "
        "each later decision; with auto it is raised if several tasks generate texts",
    )


class GenerationConfig(Section):
    """Changes to the generation_kwargs of all tasks, as by lm-eval's --gen_kwargs."""

    do_sample: bool | None = Field(
        None, description="draw tokens at random; false: always take the likeliest one"
    )
    temperature: float | None = Field(
        None, ge=0, le=100, description="divides the logits before a token is drawn"
    )
    top_k: int | None = Field(
        None, ge=0, description="only so many of the likeliest tokens can be drawn; 0: all"
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="only the likeliest tokens of this total probability"
    )
    min_p: float | None = Field(
        None, ge=0, le=1, description="only tokens with this share of the highest probability"
    )
    max_gen_toks: int | None = Field(None, ge=1, description="largest number of new tokens")

    @model_validator(mode="after")
    def _draws(self) -> GenerationConfig:
        idle = [key for key in ("temperature", "top_k", "top_p", "min_p") if getattr(self, key)]
        if idle and not self.do_sample:
            raise ValueError(
                f"has `{idle[0]}` {getattr(self, idle[0]):g} without `do_sample`, so it would "
                "change nothing in tasks that decode greedily; add `do_sample: true`"
            )
        if self.do_sample and self.temperature == 0:
            raise ValueError(
                "has `do_sample: true` with `temperature` 0, which nothing can be drawn with; set "
                "`temperature` above 0, or `do_sample` to false"
            )
        return self

    @property
    def changes(self) -> dict[str, Any]:
        """The keys that are set."""
        return self.model_dump(exclude_none=True)


class EvaluationConfig(Section):
    """How candidates are scored, on which documents."""

    include: list[str] = Field(default_factory=list, description="folders with lm-eval task YAML")
    search: SearchSplit = Field(SearchSplit(), description="candidates are compared on these")
    validation: ValidationSplit = Field(
        ValidationSplit(), description="the winner is chosen on these"
    )
    test: TestSplit = Field(TestSplit(), description="nothing is chosen on these")
    fewshot: int | None = Field(
        None, ge=0, le=1000, description="few-shot examples; null: the number in the task"
    )
    chat_template: bool = Field(
        False, description="apply the tokenizer's chat template to prompts, as lm-eval does"
    )
    enable_thinking: bool | None = Field(
        None,
        description="with chat_template: whether the template turns reasoning on, as in lm-eval; "
        "null: as the template does by itself",
    )
    think_end_token: str | int | None = Field(
        None,
        description="what ends the reasoning in a generated text, such as '</think>', or the id of "
        "this token; only the text behind it is read as the answer",
    )
    generation: GenerationConfig = Field(
        GenerationConfig(), description="how tasks generate texts; null: as the task says"
    )
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="largest number of rows in a batch; 1 gives lm-eval's bits in any dtype"
    )
    racing: RacingConfig = Field(RacingConfig(), description="stop candidates that are worse")
    backend: Literal["hf", "vllm"] = Field(
        "hf", description="what generates texts: transformers, or a vLLM engine"
    )
    tensor_parallel: int = Field(
        1, ge=1, le=64, description="with backend vllm: accelerators that an engine is divided over"
    )
    device: str = Field(
        "auto", description="auto: an accelerator if there is one; cpu, cuda, cuda:1, mps"
    )
    device_map: Literal["auto", "balanced", "sequential"] | None = Field(
        None, description="spread the model over all accelerators; null: one device"
    )
    max_memory: dict[int, str] | None = Field(
        None, description="with device_map: accelerator -> memory for weights, e.g. {0: 20GB}"
    )
    threads: Annotated[int, Field(ge=1, le=1024)] | Literal["auto"] = Field(
        "auto",
        description="CPU threads that score a model; auto: one for a small model, else all",
    )
    attention: Literal["auto", "sdpa", "eager", "flash_attention_2"] = Field(
        "auto", description="transformers' attention; auto: the model's own choice"
    )

    @model_validator(mode="after")
    def _fits_the_engine(self) -> EvaluationConfig:
        if self.tensor_parallel > 1 and self.backend != "vllm":
            raise ValueError(
                f"has `tensor_parallel` {self.tensor_parallel}, which only `backend: vllm` knows; "
                "with `backend: hf`, `device_map: auto` divides a model over accelerators"
            )
        if self.backend == "vllm" and ":" in self.device:
            raise ValueError(
                f"has the `device` {self.device!r}, but a vLLM engine takes the first accelerators "
                "that it sees; set `device` to 'auto', and the environment variable "
                f"CUDA_VISIBLE_DEVICES to {self.device.partition(':')[2]}"
            )
        return self

    @model_validator(mode="after")
    def _reasons_in_a_chat(self) -> EvaluationConfig:
        if self.enable_thinking is not None and not self.chat_template:
            raise ValueError(
                f"has `enable_thinking` {str(self.enable_thinking).lower()} without a chat "
                "template, which it is an option of; set `chat_template` to true"
            )
        if self.enable_thinking and self.think_end_token is None:
            raise ValueError(
                "has `enable_thinking` true, so answers come behind a text of reasoning; set "
                "`think_end_token` to what ends it, such as '</think>'"
            )
        return self

    @model_validator(mode="after")
    def _one_device_or_many(self) -> EvaluationConfig:
        if self.device_map is not None and self.device != "auto":
            raise ValueError(
                f"has a `device` ({self.device}) and a `device_map`, which uses all devices; "
                "remove one of them"
            )
        if self.max_memory is not None and self.device_map is None:
            raise ValueError("has `max_memory`, which only works with a `device_map`")
        return self
