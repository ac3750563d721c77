"""Studies, which are told scores, of a game or a judge: what their search files may say."""

from __future__ import annotations

from collections.abc import Iterator

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import TOLD
from evomerge.strategy.kinds import strategy_kind

_LOADING = {"device", "device_map", "max_memory", "attention", "threads"}
"""Keys of `evaluation` that say how a model is loaded, not how it is scored."""


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
    for key in _needing_documents(config):
        raise ConfigError(
            f"The search file has {key}, which needs documents or workers, but a study is "
            "told scores; remove it."
        )


def _needing_documents(config: SearchConfig) -> Iterator[str]:
    """Yield what needs scores of documents, or says who scores, as `KEY`."""
    optimizer, usual = config.optimizer, EvaluationConfig()
    if optimizer.descends:
        yield "`optimizer.name` gradient"
    elif strategy_kind(optimizer.name) is not None:
        yield f"`optimizer.name` {optimizer.name}"
    for key in EvaluationConfig.model_fields.keys() - _LOADING:
        if getattr(config.evaluation, key) != getattr(usual, key):
            yield f"`evaluation.{key}`"
    for key in ("kind", "workers", "timeout"):
        if getattr(config.executor, key) != type(config.executor).model_fields[key].default:
            yield f"`executor.{key}`"
    if config.executor.order == "generation":
        yield "`executor.order` generation"
