"""The section `executor` of a search file: what it may say, and what `auto` means in it."""

from __future__ import annotations

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError


def check_executor(config: SearchConfig) -> None:
    """Check the section `executor`.

    Raises:
        ConfigError: this version cannot run this kind, number of workers or timeout, or the order
            does not suit.
    """
    executor = config.executor
    if executor.kind == "ray":
        raise ConfigError(
            "`executor.kind` is 'ray', which this version does not have; use 'inline' or "
            "'processes'."
        )
    if executor.kind == "inline" and executor.workers not in (1, "auto"):
        raise ConfigError(
            f"`executor.workers` is {executor.workers}, but the inline executor has exactly 1; "
            "set `executor.kind` to 'processes'."
        )
    if executor.kind == "inline" and executor.timeout is not None:
        raise ConfigError(
            f"`executor.timeout` is {executor.timeout:g}, but candidates that run in this process "
            "cannot be ended; set `executor.kind` to 'processes', or remove it."
        )
    if executor.order == "arrival" and executor.together:
        raise ConfigError(
            "`executor.together` scores the paths of a generation together, but `executor.order` "
            "is 'arrival', which has no generations; set the order to generation."
        )


def resolve_order(config: SearchConfig, generation: int) -> SearchConfig:
    """Return the search file with `executor.order` set, if it is `auto`.

    Args:
        config: the search file.
        generation: number of proposals in a generation of the strategy; 1: no generations.
    """
    if config.executor.order != "auto":
        return config
    order = "generation" if generation > 1 else "arrival"
    executor = config.executor.model_copy(update={"order": order})
    return config.model_copy(update={"executor": executor})


def is_together(config: SearchConfig) -> bool:
    """Return whether the paths of a generation are scored together, as a trie."""
    if config.executor.together is not None:
        return config.executor.together
    return (
        config.space.kind == "dataflow"
        and isinstance(config.space.scales, float)
        and config.evaluation.fidelity_policy is None
        and config.executor.order != "arrival"
    )
