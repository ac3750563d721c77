"""From a search file's `executor` to what runs candidates."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from evomerge.config import SearchConfig
from evomerge.errors import ConfigError

if TYPE_CHECKING:
    from evomerge.execute.protocol import Executor
    from evomerge.worker import Worker


def check_executor(config: SearchConfig) -> None:
    """Refuse what this version cannot run.

    Raises:
        ConfigError: the kind, the number of workers or a timeout.
    """
    if config.executor.kind != "inline":
        raise ConfigError(
            f"`executor.kind` is {config.executor.kind!r}, which this version does not have; use "
            "'inline'."
        )
    if config.executor.workers != 1:
        raise ConfigError(
            f"`executor.workers` is {config.executor.workers}; the inline executor has exactly 1."
        )
    if config.executor.timeout is not None:
        raise ConfigError(
            "`executor.timeout` needs candidates in processes of their own, which this version "
            "does not have; remove it."
        )


def is_together(config: SearchConfig) -> bool:
    """Return whether a generation's candidates are scored together."""
    wanted, space = config.executor.together, config.space
    plain = space.kind == "dataflow" and isinstance(space.scales, float)
    plain = plain and config.evaluation.saving is None
    return plain if wanted is None else wanted


def make_executor(config: SearchConfig, worker: Worker) -> Executor:
    """Return what has candidates built and scored by a worker."""
    from evomerge.execute.inline import InlineExecutor
    from evomerge.execute.together import TogetherExecutor

    if not is_together(config):
        return InlineExecutor(worker)
    from evomerge.together import forks, run_together

    return TogetherExecutor(partial(run_together, worker, forks=forks()))
