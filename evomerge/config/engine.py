"""Engines: what runs models on requests, as search files name it in `evaluation.backend`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from evomerge.config.fields import Rule
from evomerge.config.kinds import imported


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

ENGINES = {
    "hf": "evomerge.config.engine:TRANSFORMERS",
    "vllm": "evomerge.evaluation.inference.vllm_kind:VLLM",
}
"""Value of `evaluation.backend` -> where its engine is, which is imported when it is asked for."""


def engine(backend: str) -> Engine:
    """Return the engine that `evaluation.backend` names."""
    return cast(Engine, imported(ENGINES[backend]))
