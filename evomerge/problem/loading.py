"""Where the models of a problem are scored, and loading one model as it is."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.device import choose_device, choose_threads, is_slow
from evomerge.evaluation.objectives import kinds_of, needed_parts
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.parts import has_tokenizer
from evomerge.problem.problem import Problem

if TYPE_CHECKING:
    from evomerge.merging.architecture.placement import Placement


def place(config: SearchConfig) -> Placement:
    """Return the devices of a model and its attention; `ConfigError`: there is no such device."""
    from evomerge.merging.architecture.placement import Placement

    wanted = config.evaluation
    attention = None if wanted.attention == "auto" else wanted.attention
    spread, is_float32 = wanted.device_map == "auto", wanted.float32 is True
    return Placement(choose_device(wanted.device), spread, attention, is_float32)


def resolve_float32(config: SearchConfig) -> SearchConfig:
    """Return the search file with `evaluation.float32` set, if it is `auto`."""
    wanted = config.evaluation
    if wanted.float32 != "auto":
        return config
    suits = (
        config.dtype != "float32"
        and not wanted.engine.is_separate
        and not config.is_study  # the models of a study are a program's, in their `dtype`
        and config.executor.ray.address is None  # workers are on other machines
        and choose_device(wanted.device) == "cpu"
        and is_slow(config.dtype)
    )
    return config.with_values("evaluation", float32=suits)


def threads_of(config: SearchConfig, checkpoint: Checkpoint, cores: int | None = None) -> int:
    """Return the number of CPU threads that models of a parent's size are scored with.

    `cores` is the largest number to choose; None: all that torch would use.
    """

    wanted = config.evaluation.threads
    return choose_threads(checkpoint.parameters, cores) if wanted == "auto" else wanted


def serves_paths(config: SearchConfig) -> bool:
    """Whether an engine generates the texts of paths, which may differ in depth."""
    return config.evaluation.engine.is_separate and config.space.is_path


def load_parent(problem: Problem, reference: str) -> tuple[Any, Any]:
    """Return model and tokenizer of a parent as itself; one that it lacks is the merges'."""
    from evomerge.merging.backend import tokenizer

    checkpoints, first = problem.checkpoints, next(iter(problem.space.baselines().values()))
    lacking = partial(tokenizer, checkpoints, first)
    return load_single(problem.config, checkpoints[reference], lacking)


def load_single(
    config: SearchConfig, checkpoint: Checkpoint, lacking: Callable[[], Any] | None = None
) -> tuple[Any, Any]:
    """Return a model with its own config and dtype, and its own tokenizer.

    Args:
        config: the search file; it has the dtype of a model with an adapter.
        lacking: returns the tokenizer for a model without one, or without a chat template.

    CheckpointError: the model or its tokenizer cannot be loaded.
    """
    from evomerge.merging.backend import load, tokenizer_of

    stored, causal = checkpoint.as_stored, any(kind.writes for kind in kinds_of(config))
    parts = needed_parts(config)
    model = load(stored, place(config), config.dtype, causal=causal, parts=parts)
    if lacking is not None and not has_tokenizer(stored):
        return model, lacking()
    tokenizer = tokenizer_of(stored)
    if lacking is not None and tokenizer.chat_template is None:
        tokenizer.chat_template = lacking().chat_template
    return model, tokenizer
