"""M2N2 for a search file: its settings, what it cannot be combined with, its space and strategy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, ValidationError

from evomerge.config.fields import Section
from evomerge.config.messages import sentence
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Objective
from evomerge.setup.problem import Problem
from evomerge.space.crossover import CrossoverSpace

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo
    from evomerge.strategy.niches import NichesStrategy

NAME = "niches"


class NichesOptions(Section):
    """The section `optimizer.options` of M2N2."""

    archive: Annotated[int, Field(ge=2, le=1000)] = Field(
        20, description="largest number of members"
    )
    alpha: float = Field(
        1.0,
        ge=0,
        le=10,
        description="how much members take from each other: a member's share of a document is its "
        "score / (sum of the scores of all members) ** alpha",
    )
    attraction: bool = Field(
        True, description="draw the second mate by what it gets and the first does not"
    )
    disk: Annotated[str, Field(min_length=1)] | None = Field(
        None,
        description="largest size of the members on disk, such as 50GB; null: that of 24 models",
    )


def is_niches(config: SearchConfig) -> bool:
    """Whether a search file asks for M2N2."""
    return config.optimizer.name == NAME


def options_of(config: SearchConfig) -> NichesOptions:
    """Return the options of M2N2.

    Raises:
        ConfigError: an option is unknown, or out of range.
    """
    given = config.optimizer.options
    try:
        return NichesOptions.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"optimizer.options: {sentence(error, given, NichesOptions)}") from None


def room_of(config: SearchConfig) -> int | None:
    """Return the largest size of the members on disk in bytes; None: the default.

    Raises:
        ConfigError: it is no size.
    """
    from evomerge.merging.backend import bytes_of

    disk = options_of(config).disk
    return None if disk is None else bytes_of(disk, "`optimizer.options.disk`")


def crossover_space(config: SearchConfig, host: Checkpoint, reference: str) -> CrossoverSpace:
    """Return the space of M2N2.

    Args:
        config: the search file.
        host: the host.
        reference: the reference of the host.

    Raises:
        ConfigError: a key has no meaning for M2N2, or there are fewer than two parents.
    """
    space, given = config.space, config.space.model_fields_set
    for name in sorted(given - {"kind", "host"}):
        default = type(space).model_fields[name].get_default(call_default_factory=True)
        if getattr(space, name) != default:
            raise ConfigError(
                f"`space.{name}` has no meaning for the optimizer {NAME!r}, which merges whole "
                "models and has no genes; remove it."
            )
    if space.kind != "parameters":
        raise ConfigError(
            f"`space.kind` is {space.kind!r}, but the optimizer {NAME!r} merges the weights of "
            "whole models; remove it, or choose another optimizer."
        )
    if config.base is not None:
        raise ConfigError(
            f"`base` has no meaning for the optimizer {NAME!r}, which has no task vectors; remove "
            "it, or name the model among the parents."
        )
    if config.tokenizer != "base":
        raise ConfigError(
            f"`tokenizer` is {config.tokenizer!r}, but the optimizer {NAME!r} needs parents with "
            "one vocabulary; set it to base."
        )
    if config.optimizer.start:
        raise ConfigError(
            f"`optimizer.start` has no meaning for the optimizer {NAME!r}, which starts from the "
            "parents; name the merge among them, as `run:DIR` or `merge:FILE.yaml`."
        )
    if len(config.parents) < 2:
        raise ConfigError(
            f"The optimizer {NAME!r} merges two models at a time, but `parents` names one; add one."
        )
    room_of(config)
    return CrossoverSpace(
        parents=config.parents,
        host=reference,
        stack=host.main.prefix,
        layers=len(host.main),
        dtype=config.dtype,
        seed=config.seed,
    )


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
    policy = config.evaluation.fidelity_policy
    if policy is not None:
        raise ConfigError(
            f"`evaluation.{policy}` scores fewer documents of candidates that are worse on "
            f"average, but the optimizer {NAME!r} keeps them for single documents; set "
            f"`evaluation.{policy}.enabled` to false."
        )


def make_niches(problem: Problem, space: CrossoverSpace) -> NichesStrategy:
    """Return a new strategy with the search's seed."""
    from evomerge.strategy.niches import NichesSetting, NichesStrategy, shared_documents

    config = problem.config
    plain: dict[str, Any] = options_of(config).model_dump(exclude={"disk"})
    return NichesStrategy(
        space,
        shared_documents(problem.objectives, problem.constraints),
        NichesSetting(**plain, generation=generation_of(config)),
        config.seed,
    )


def generation_of(config: SearchConfig) -> int:
    """Return the number of candidates in a generation: 1 unless the search file says more."""
    wanted = config.optimizer.population
    return 1 if wanted == "auto" else wanted
