"""Studies, which are told scores, of a game or a judge: what their search files may say."""

from __future__ import annotations

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.executor import ExecutorConfig
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import TOLD
from evomerge.strategy.kinds import strategy_kind

_FREE = {"device", "device_map", "max_memory", "attention", "threads", "order", "ray"}
"""Keys of `evaluation` and `executor` that say neither how models are scored nor by whom."""


def refuse_study(config: SearchConfig) -> None:
    """Raise a ConfigError if a search is told its scores, so that no command can run it."""
    if config.is_study:
        raise ConfigError(
            "The search file has an objective or a constraint with `told`, a score that "
            "evomerge cannot measure; `evomerge.Study` in Python gives you candidates, and is told "
            "their scores."
        )


def check_study(config: SearchConfig) -> None:
    """Check that a search file asks for nothing that needs documents, or workers of its own.

    Raises:
        ConfigError: it does, or it has an objective that is not told.
    """
    for item in (*config.objectives, *config.constraints):
        if item.source != TOLD:
            raise ConfigError(
                f"A study is told all scores, but the search file also has {item.metric!r} of "
                f"{item.source!r}; score that yourself, as `told: {item.metric}`, or start "
                "an ordinary search."
            )
    optimizer, evaluation, executor = config.optimizer, config.evaluation, config.executor
    usual = {
        "evaluation": (evaluation, EvaluationConfig()),
        "executor": (executor, ExecutorConfig()),
    }
    asked = {
        f"`optimizer.name` {optimizer.name}": optimizer.descends or strategy_kind(optimizer.name),
        "`executor.order` generation": executor.order == "generation",
    } | {
        f"`{section}.{key}`": getattr(given, key) != getattr(default, key)
        for section, (given, default) in usual.items()
        for key in type(given).model_fields.keys() - _FREE
    }
    for key in (name for name, is_asked in asked.items() if is_asked):
        raise ConfigError(
            f"The search file has {key}, which needs documents or workers, but a study is "
            "told scores; remove it."
        )
