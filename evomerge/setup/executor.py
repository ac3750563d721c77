"""The executor that a search file asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.execute.protocol import Executor, Job
from evomerge.run.attempts import Attempts
from evomerge.scores import Outcome
from evomerge.setup.problem import Problem

if TYPE_CHECKING:
    from evomerge.execute.worker import Worker
    from evomerge.setup.worker import MemoryShare


def check_executor(config: SearchConfig) -> None:
    """Check the section `executor`.

    Raises:
        ConfigError: this version cannot run this kind, number of workers or timeout, or the order
            does not suit.
    """
    executor = config.executor
    if executor.kind != "inline":
        raise ConfigError(
            f"`executor.kind` is {executor.kind!r}, which this version does not have; use 'inline'."
        )
    if executor.workers != 1:
        raise ConfigError(
            f"`executor.workers` is {executor.workers}; the inline executor has exactly 1."
        )
    if executor.timeout is not None:
        raise ConfigError(
            "`executor.timeout` needs an executor that runs candidates in other processes, which "
            "this version does not have; remove it."
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


def make_executor(
    problem: Problem, attempts: Attempts, worker: Worker, share: MemoryShare
) -> Executor:
    """Return the executor of a search.

    Args:
        problem: the problem of the search.
        worker: builds and scores the candidates.
        share: the worker's memory for caches.
        attempts: is told when each job begins and ends, since a candidate may end this process.
    """
    from evomerge.execute.inline import InlineExecutor, one_by_one

    def run(
        job: Job, around: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Outcome:
        with attempts.trying(f"{job.candidate} {job.split}"):
            return worker(job, around)

    if not is_together(problem.config):
        return InlineExecutor(one_by_one(run))
    from evomerge.evaluate.inference.tree import Forks
    from evomerge.execute.tree import as_tree

    return InlineExecutor(as_tree(run, Forks(share.states)))
