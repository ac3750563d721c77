"""The fidelity policy that a search file asks for: on how many documents candidates are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import Objective

if TYPE_CHECKING:
    from evomerge.evaluate.fidelity.protocol import Fidelity
    from evomerge.evaluate.tasks.info import TasksInfo


def make_fidelity(config: SearchConfig) -> Fidelity | None:
    """Return the fidelity policy; None if every candidate is scored on all search documents."""
    from evomerge.evaluate.fidelity.halving import Halving
    from evomerge.evaluate.fidelity.prediction import Prediction
    from evomerge.evaluate.fidelity.racing import Race

    wanted, seed = config.evaluation, config.seed
    match wanted.fidelity_policy:
        case "racing":
            return Race(wanted.racing.confidence, wanted.racing.minimum, seed)
        case "halving":
            return Halving(wanted.halving.first, wanted.halving.factor, seed)
        case "irt":
            irt = wanted.irt
            return Prediction(irt.documents, irt.calibration, max(60, irt.calibration))
    return None


def resolve_racing(
    config: SearchConfig,
    objectives: Sequence[Objective],
    info: TasksInfo,
    search: Mapping[str, Sequence[int]],
) -> SearchConfig:
    """Return the search file with `evaluation.racing.enabled` set, if it is `auto`.

    Racing is enabled where measurements show that it saves documents and finds merges that are as
    good (docs/evaluation.md).

    Args:
        config: the search file.
        objectives: its objectives.
        info: what is known of its tasks.
        search: the search documents by task.
    """
    wanted = config.evaluation
    if wanted.racing.enabled != "auto":
        return config
    enabled = (
        wanted.fidelity_policy is None
        and config.space.kind == "parameters"
        and config.mode == "weighted"
        and wanted.backend == "hf"  # vLLM would load a candidate's weights again after each check
        and all(info.metric(item.task, item.metric)[1].is_mean for item in objectives)
        and sum(map(len, search.values())) >= 4 * wanted.racing.minimum
    )
    racing = wanted.racing.model_copy(update={"enabled": enabled})
    return config.model_copy(update={"evaluation": wanted.model_copy(update={"racing": racing})})


def check_fidelity(
    config: SearchConfig,
    objectives: Sequence[Objective],
    info: TasksInfo,
    search: Mapping[str, Sequence[int]],
) -> None:
    """Check that the fidelity policy, if there is one, suits the metrics and documents.

    Args:
        config: the search file.
        objectives: its objectives.
        info: what is known of its tasks.
        search: the search documents by task.

    Raises:
        ConfigError: a metric is not a mean over documents, or there are too few documents.
    """
    from evomerge.evaluate.fidelity.protocol import check_means

    wanted = config.evaluation
    if wanted.fidelity_policy is None:
        return
    check_means(f"evaluation.{wanted.fidelity_policy}", objectives, info)
    total = sum(map(len, search.values()))
    key, least = {
        "racing": ("racing.minimum", wanted.racing.minimum),
        "halving": ("halving.first", wanted.halving.first),
        "irt": ("irt.documents", wanted.irt.documents * len(search)),
    }[wanted.fidelity_policy]
    if least >= total:
        raise ConfigError(
            f"`evaluation.{key}` is {least}, but a candidate has only {total} search documents in "
            "all, so none can be left out; lower it, or set `evaluation.search.documents` to a "
            "larger number."
        )
