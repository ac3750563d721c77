"""From a search file's `executor` to what runs candidates."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.execute.protocol import Executor, Job
from evomerge.run.attempts import Attempts
from evomerge.scores import Outcome
from evomerge.setup.problem import Problem
from evomerge.setup.worker import MemoryShare, make_worker


def check_executor(config: SearchConfig) -> None:
    """Refuse what this version cannot run.

    Raises:
        ConfigError: the kind, the number of workers, a timeout, or an order that does not suit.
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
            "`executor.timeout` needs candidates in processes of their own, which this version "
            "does not have; remove it."
        )
    if executor.order == "arrival" and executor.together:
        raise ConfigError(
            "`executor.together` scores the paths of a generation together, but `executor.order` "
            "is 'arrival', which knows no generations; set the order to generation."
        )


def settle_order(config: SearchConfig, generation: int) -> SearchConfig:
    """Return a search file that says when outcomes are told, where `executor.order` was `auto`.

    Args:
        generation: proposals in a generation of the strategy.
    """
    if config.executor.order != "auto":
        return config
    order = "generation" if generation > 1 else "arrival"
    executor = config.executor.model_copy(update={"order": order})
    return config.model_copy(update={"executor": executor})


def is_together(config: SearchConfig) -> bool:
    """Return whether a generation's paths are scored as a tree."""
    wanted, space = config.executor.together, config.space
    plain = space.kind == "dataflow" and isinstance(space.scales, float)
    plain = (
        plain and config.evaluation.fidelity_policy is None and config.executor.order != "arrival"
    )
    return plain if wanted is None else wanted


def make_executor(problem: Problem, attempts: Attempts) -> Executor:
    """Return what has candidates built and scored.

    Args:
        problem: the search.
        attempts: takes down which job is being run, since a candidate may end this process.

    Raises:
        InputError: the worker cannot be built.
    """
    from evomerge.execute.inline import InlineExecutor, one_by_one

    share = MemoryShare.of_machine(1)
    worker = make_worker(problem, share)

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
