"""What the strategies that merge earlier candidates have in common, for a search file."""

from __future__ import annotations

from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.strategy import STRATEGIES


def has_members(config: SearchConfig) -> bool:
    """Whether a search file asks for a strategy that merges earlier candidates."""
    return config.optimizer.name in STRATEGIES


def room_of(config: SearchConfig) -> int | None:
    """Return the largest size of the members on disk in bytes; None: the default.

    Raises:
        ConfigError: it is no size.
    """
    from evomerge.merging.backend import bytes_of

    disk = config.optimizer.options.get("disk")
    return None if disk is None else bytes_of(disk, "`optimizer.options.disk`")


def generation_of(config: SearchConfig) -> int:
    """Return the number of candidates in a generation: 1 unless the search file says more."""
    wanted = config.optimizer.population
    return 1 if wanted == "auto" else wanted


def check_whole_models(config: SearchConfig) -> None:
    """Check what all of these strategies need of a search file, but for their options.

    Raises:
        ConfigError: a key has no meaning for them, or there are fewer than two parents.
    """
    name, space = config.optimizer.name, config.space
    for key in sorted(space.model_fields_set - {"kind", "host"}):
        default = type(space).model_fields[key].get_default(call_default_factory=True)
        if getattr(space, key) != default:
            raise ConfigError(
                f"`space.{key}` has no meaning for the optimizer {name!r}, which merges whole "
                "models and has no genes; remove it."
            )
    if space.kind != "parameters":
        raise ConfigError(
            f"`space.kind` is {space.kind!r}, but the optimizer {name!r} merges the weights of "
            "whole models; remove it, or choose another optimizer."
        )
    if config.tokenizer != "base":
        raise ConfigError(
            f"`tokenizer` is {config.tokenizer!r}, but the optimizer {name!r} needs parents with "
            "one vocabulary; set it to base."
        )
    if config.optimizer.start:
        raise ConfigError(
            f"`optimizer.start` has no meaning for the optimizer {name!r}, which starts from the "
            "parents; name the merge among them, as `run:DIR` or `merge:FILE.yaml`."
        )
    if config.optimizer.sigma != type(config.optimizer).model_fields["sigma"].default:
        raise ConfigError(
            f"`optimizer.sigma` has no meaning for the optimizer {name!r}, which has no genes; "
            "remove it, and see `optimizer.options` for its own settings."
        )
    if len(config.parents) < 2:
        raise ConfigError(
            f"The optimizer {name!r} merges two models at a time, but `parents` names one; add one."
        )
    room_of(config)


def frame_of(config: SearchConfig, host: Checkpoint, reference: str) -> dict[str, Any]:
    """Return what every space of these strategies is made of.

    Args:
        config: the search file.
        host: the host.
        reference: the reference of the host.
    """
    return {
        "parents": config.parents,
        "host": reference,
        "stack": host.main.prefix,
        "layers": len(host.main),
        "dtype": config.dtype,
        "seed": config.seed,
    }


def check_all_documents(config: SearchConfig, reason: str) -> None:
    """Check that each candidate is scored on all search documents.

    Args:
        config: the search file.
        reason: why the strategy needs that.

    Raises:
        ConfigError: a fidelity policy scores fewer documents of some candidates.
    """
    policy = config.evaluation.fidelity_policy
    if policy is not None:
        raise ConfigError(
            f"`evaluation.{policy}` scores fewer documents of candidates that are worse on "
            f"average, but the optimizer {config.optimizer.name!r} {reason}; set "
            f"`evaluation.{policy}.enabled` to false."
        )
