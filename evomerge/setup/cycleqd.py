"""CycleQD for a search file: what it cannot be combined with, its space and strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.config.strategies import CycleQDOptions, options_of
from evomerge.errors import ConfigError, did_you_mean
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Objective
from evomerge.setup.members import check_all_documents, check_whole_models, frame_of, generation_of
from evomerge.setup.problem import Problem
from evomerge.space.task_vectors import TaskVectorSpace

if TYPE_CHECKING:
    from evomerge.strategy.cycleqd import CycleQDStrategy

NAME = "cycleqd"


def task_vector_space(config: SearchConfig, host: Checkpoint, reference: str) -> TaskVectorSpace:
    """Return the space of CycleQD.

    Args:
        config: the search file.
        host: the host.
        reference: the reference of the host.

    Raises:
        ConfigError: a key has no meaning for CycleQD, an option is wrong, there is no base, or
            there are fewer than two parents.
    """
    options_of(config, CycleQDOptions)
    if config.base is None:
        raise ConfigError(
            f"The optimizer {NAME!r} adds task vectors, the differences of models from a base; set "
            "`base` to the model that the parents were fine-tuned from."
        )
    check_whole_models(config)
    return TaskVectorSpace(base=config.base, **frame_of(config, host, reference))


def check_objectives(config: SearchConfig, objectives: tuple[Objective, ...]) -> None:
    """Check that the objectives can have archives.

    Raises:
        ConfigError: there are fewer than two objectives, bounds are missing or of no objective, or
            candidates are scored on fewer documents.
    """
    if len(objectives) < 2:
        raise ConfigError(
            f"The optimizer {NAME!r} keeps the best model on one objective for each score on the "
            f"others, but `objectives` has only {objectives[0].key}; add one, or choose another "
            "optimizer."
        )
    bounds, keys = options_of(config, CycleQDOptions).bounds, [item.key for item in objectives]
    for key in bounds:
        if key not in keys:
            raise ConfigError(
                f"`optimizer.options.bounds` has {key!r}, which is no objective; these are "
                f"{', '.join(keys)}.{did_you_mean(key, keys)}"
            )
    for item in objectives:
        if item.key not in bounds and (item.is_exact or not item.higher_is_better):
            raise ConfigError(
                f"The optimizer {NAME!r} divides the scores from 0 to 1 into bins, but {item.key} "
                "has another range; give its lowest and highest value in "
                f"`optimizer.options.bounds`, as {{{item.key}: [LOW, HIGH]}}."
            )
    check_all_documents(config, "keeps them for single objectives")


def make_cycleqd(problem: Problem, space: TaskVectorSpace) -> CycleQDStrategy:
    """Return a new strategy with the search's seed."""
    from evomerge.strategy.archive import Grid
    from evomerge.strategy.cycleqd import CycleQDSetting, CycleQDStrategy

    config = problem.config
    options = options_of(config, CycleQDOptions)
    return CycleQDStrategy(
        space,
        problem.objectives,
        problem.constraints,
        Grid.of(problem.objectives, options.bins, options.bounds),
        CycleQDSetting(options.sigma, options.mutation, options.aggregate, generation_of(config)),
        config.seed,
    )
