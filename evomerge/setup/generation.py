"""Checking the generation config of the models that a search scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.merging.tokenizers.plan import TokenizerPlan


_CLOCK = "max_time"
"""The only setting by which the time that `generate` has taken changes a text."""


def check_generation(
    config: SearchConfig, host: Checkpoint, plan: TokenizerPlan, evaluator: Evaluator
) -> None:
    """Check that texts can be generated with the generation config of the merged models.

    Args:
        config: the search file.
        host: the parent that gives the config.
        plan: the tokenizer of the merged models.
        evaluator: the tasks; nothing is checked if none of them generates texts.

    Raises:
        ConfigError: lm-eval, or vLLM, cannot generate texts with one of the settings, or a score
            could not be repeated.
        CheckpointError: transformers refuses a setting.
    """
    from evomerge.merging.architecture.generation import why_not_generating

    settings, setting = _unsupported(host, plan, evaluator)
    if setting is None:
        return
    if getattr(settings, _CLOCK, None) is not None:
        raise ConfigError(
            f"objectives: {host.reference!r} sets {_CLOCK!r} in generation_config.json, so a text, "
            "and with it the score, would depend on the speed of the machine; remove it there."
        )
    if config.evaluation.backend == "vllm":
        raise ConfigError(
            f"evaluation.backend is 'vllm', which generates greedily or samples, but "
            f"{host.reference!r} also sets {setting!r} in generation_config.json; remove it there, "
            "or use the backend 'hf'."
        )
    reason = why_not_generating(host.config, settings)
    if reason is not None:
        raise ConfigError(
            f"objectives: lm-eval cannot generate texts with {host.reference!r}, which sets "
            f"{setting!r} in generation_config.json ({reason.rstrip('.')}); remove it there."
        )


def generation_note(
    config: SearchConfig, host: Checkpoint, plan: TokenizerPlan, evaluator: Evaluator
) -> str | None:
    """Return a note if lm-eval itself must generate the texts, which takes more time; else None.

    The arguments are those of `check_generation`.
    """
    _, setting = _unsupported(host, plan, evaluator)
    if setting is None or config.evaluation.backend == "vllm":
        return None
    return (
        f"{host.reference!r} sets {setting!r} in generation_config.json, which the fast generation "
        "does not support, so lm-eval itself generates the texts: the scores are the same, in more "
        "time; if the setting is not wanted, remove it there."
    )


def _unsupported(
    host: Checkpoint, plan: TokenizerPlan, evaluator: Evaluator
) -> tuple[Any, str | None]:
    """Return the generation config, and a setting that our own generation does not support."""
    from evomerge.evaluation.inference.generation_config import unsupported_setting
    from evomerge.merging.architecture.generation import generation_config
    from evomerge.merging.tokenizers.plan import GENERATION

    tasks = [task for task in evaluator.info.tasks.values() if task.kind == "generate_until"]
    if not tasks:
        return None, None
    settings = generation_config(host.config, plan.files.get(GENERATION, host.generation))
    sampled = any(task.is_sampled for task in tasks)
    return settings, settings and unsupported_setting(settings, sampled=sampled)
