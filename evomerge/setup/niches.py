"""M2N2 for a search file: what it cannot be combined with, its space and strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.config.strategies import NichesOptions, options_of
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Objective
from evomerge.setup.members import check_all_documents, check_whole_models, frame_of, generation_of
from evomerge.setup.problem import Problem
from evomerge.space.crossover import CrossoverSpace

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo
    from evomerge.strategy.niches import NichesStrategy

NAME = "niches"


def crossover_space(config: SearchConfig, host: Checkpoint, reference: str) -> CrossoverSpace:
    """Return the space of M2N2.

    Args:
        config: the search file.
        host: the host.
        reference: the reference of the host.

    Raises:
        ConfigError: a key has no meaning for M2N2, an option is wrong, or there are fewer than two
            parents.
    """
    options_of(config, NichesOptions)
    if config.base is not None:
        raise ConfigError(
            f"`base` has no meaning for the optimizer {NAME!r}, which has no task vectors; remove "
            "it, or name the model among the parents."
        )
    check_whole_models(config)
    return CrossoverSpace(**frame_of(config, host, reference))


def check_objectives(
    config: SearchConfig, objectives: tuple[Objective, ...], info: TasksInfo
) -> None:
    """Check that members can share the documents of all objectives.

    Raises:
        ConfigError: lower values of a metric are better, it has no value for each document, or
            candidates are scored on fewer documents.
    """
    for item in objectives:
        if not item.higher_is_better:
            reason = "lower values are better"
        elif item.is_exact or not info.metric(item.task, item.metric)[1].is_mean:
            reason = "it is not a mean over documents"
        elif info.leaves(item.task) != (item.task,):
            reason = "it is that of a group; name the tasks of the group instead"
        else:
            continue
        raise ConfigError(
            f"The optimizer {NAME!r} shares out the score of each document, which {item.key} does "
            f"not allow: {reason}."
        )
    check_all_documents(config, "keeps them for single documents")


def make_niches(problem: Problem, space: CrossoverSpace) -> NichesStrategy:
    """Return a new strategy with the search's seed."""
    from evomerge.strategy.niches import NichesSetting, NichesStrategy, shared_documents

    config = problem.config
    plain: dict[str, Any] = options_of(config, NichesOptions).model_dump(exclude={"disk"})
    return NichesStrategy(
        space,
        shared_documents(problem.objectives, problem.constraints),
        NichesSetting(**plain, generation=generation_of(config)),
        config.seed,
    )
