"""Racing for a search file: whether it is used, and what it cannot be combined with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import Objective
from evomerge.strategy.kinds import strategy_kind

if TYPE_CHECKING:
    from evomerge.evaluation.racing import Race
    from evomerge.evaluation.tasks.info import TasksInfo

_SAMPLES = 3
"""Number of samples that the search documents must make at least, so that racing saves time."""


def make_race(config: SearchConfig) -> Race | None:
    """Return the race of candidates; None if each is scored on all search documents."""
    from evomerge.evaluation.racing import Race

    wanted = config.evaluation.racing
    is_on = wanted.enabled is True
    return Race(wanted.confidence, wanted.minimum, config.seed) if is_on else None


def resolve_racing(
    config: SearchConfig,
    objectives: Sequence[Objective],
    info: TasksInfo,
    search: Mapping[str, Sequence[int]],
) -> tuple[SearchConfig, str]:
    """Return the search file with `evaluation.racing` set if it is `auto`, and why, for a person.

    Racing is enabled where it saves time and finds merges that are as good, by measurements
    (docs/racing.md). If `minimum` documents are too few to fill batches, it is raised. `search`
    has the ids of the search documents by task.

    Raises:
        ConfigError: the search file asks for racing, but a metric is not a mean over documents, or
            there are too few documents.
    """
    from evomerge.evaluation.racing import check_means

    wanted, total = config.evaluation.racing, sum(map(len, search.values()))
    beside = _beside_fitness(config)
    if wanted.enabled is True:
        check_means(objectives, info)
        if beside is not None:
            raise ConfigError(
                f"`evaluation.racing` compares candidates by one fitness, but {beside}; remove it, "
                "or set `evaluation.racing.enabled` to false."
            )
        if wanted.minimum >= total:
            raise ConfigError(
                f"`evaluation.racing.minimum` is {wanted.minimum}, but a candidate has only "
                f"{total} search documents in all, so none can be left out; lower it, or raise "
                "`evaluation.search.documents`."
            )
    if wanted.enabled != "auto":
        return config, f"{'racing' if wanted.enabled else 'off'}, as the search file says"
    suits = (
        config.space.kind == "parameters"  # racing was measured in no other space
        and strategy_kind(config.optimizer.name) is None
        and beside is None
        and config.evaluation.backend == "hf"  # vLLM would load weights again for each sample
        and not config.is_study
        and not config.encoders  # a sample would encode all passages again
        and all(not o.is_exact and info.metric(o.task, o.metric)[1].is_mean for o in objectives)
    )
    least = max(wanted.minimum, _full_batches(config, info, search))
    is_on, samples = suits and total >= _SAMPLES * least, f"samples of at least {least}"
    chosen = {"enabled": is_on, "minimum": least if is_on else wanted.minimum}
    config = config.with_values("evaluation", racing=wanted.model_copy(update=chosen))
    if not suits:
        return config, (
            "off, since it needs a parameter space, one fitness of means over documents, and the "
            "backend hf"
        )
    if not is_on:
        return config, f"off, since {total} documents make fewer than {_SAMPLES} {samples}"
    return config, f"racing, since {total} documents make {total // least} {samples}"


def _full_batches(
    config: SearchConfig, info: TasksInfo, search: Mapping[str, Sequence[int]]
) -> int:
    """Return how many documents fill batches: with more, a document takes little less time.

    Texts are generated with one forward pass of the batch for each token. So a batch should have as
    many texts as the tokens that cost as much as starting a pass, and each task that generates
    texts has batches of its own. Log-likelihoods take few passes, so any sample will do.
    """
    from evomerge.evaluation.inference.batches import pass_overhead
    from evomerge.evaluation.inference.device import choose_device

    wanted = config.evaluation
    device = choose_device(wanted.device) if wanted.device_map is None else "accelerators"
    generating = sum(info.tasks[task].kind == "generate_until" for task in search)
    return generating * pass_overhead(device)


def _beside_fitness(config: SearchConfig) -> str | None:
    """Return what candidates are compared by beside one fitness, which a race does not know."""
    if config.mode != "weighted":
        return f"`mode` is {config.mode}"
    if config.constraints:
        return "there are constraints"
    return next((item.replace("` ", "` is ") for item in config.tie_breakers), None)
