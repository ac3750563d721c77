"""The fidelity policy that a search file asks for: on how many documents candidates are scored."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.scores import Objective
from evomerge.strategy.kinds import strategy_kind

if TYPE_CHECKING:
    from evomerge.evaluation.fidelity.protocol import Fidelity
    from evomerge.evaluation.tasks.info import TasksInfo


_SAMPLES = 3
"""Number of samples that the search documents must make at least, so that racing saves time."""


def make_fidelity(config: SearchConfig) -> Fidelity | None:
    """Return the fidelity policy; None if every candidate is scored on all search documents."""
    from evomerge.evaluation.fidelity.halving import Halving
    from evomerge.evaluation.fidelity.prediction import Prediction
    from evomerge.evaluation.fidelity.racing import Race

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
) -> tuple[SearchConfig, str]:
    """Return the search file with `evaluation.racing` set if it is `auto`, and the reason.

    Racing is enabled where it saves time and finds merges that are as good, by measurements
    (docs/evaluation.md). If `minimum` documents are too few to fill batches, it is raised.

    Args:
        config: the search file.
        objectives: its objectives.
        info: what is known of its tasks.
        search: the search documents by task.

    Returns:
        the search file; and which policy is enabled and why, such as `off, since ...`.
    """
    wanted = config.evaluation
    least, total = wanted.racing.minimum, sum(map(len, search.values()))
    if wanted.fidelity_policy is not None or wanted.racing.enabled != "auto":
        enabled = wanted.racing.enabled is True
        reason = f"{wanted.fidelity_policy or 'off'}, as the search file says"
    else:
        least = max(least, _full_batches(config, info, search))
        objection = _objection(config, objectives, info) or _too_few(total, least)
        enabled = objection is None
        reason = f"off, since {objection}"
        if enabled:
            parts = total // least
            reason = (
                f"racing, since {total} documents make {parts} samples of at least {least}, which "
                "fill batches"
            )
    minimum = least if enabled else wanted.racing.minimum
    racing = wanted.racing.model_copy(update={"enabled": enabled, "minimum": minimum})
    evaluation = wanted.model_copy(update={"racing": racing})
    return config.model_copy(update={"evaluation": evaluation}), reason


def _full_batches(
    config: SearchConfig, info: TasksInfo, search: Mapping[str, Sequence[int]]
) -> int:
    """Return how many documents fill batches: with more, a document takes little less time.

    Texts are generated with one forward pass of the batch for each token. So a batch should have as
    many texts as the tokens that cost as much as starting a pass, and each task that generates
    texts has batches of its own. Log-likelihoods take few passes, so any sample will do.

    Args:
        search: the search documents by task.
    """
    from evomerge.evaluation.inference.device import choose_device
    from evomerge.evaluation.inference.memory import pass_overhead

    wanted = config.evaluation
    device = choose_device(wanted.device) if wanted.device_map is None else "accelerators"
    generating = sum(info.tasks[task].kind == "generate_until" for task in search)
    return generating * pass_overhead(device)


def _objection(
    config: SearchConfig, objectives: Sequence[Objective], info: TasksInfo
) -> str | None:
    """Return why racing is not suitable, whatever the number of documents; None if it is."""
    kind = config.space.kind
    if kind != "parameters":
        return f"racing was only measured in parameter spaces, and this one is {kind}"
    if strategy_kind(config.optimizer.name) is not None:
        name = config.optimizer.name
        return f"{name} keeps merges that are worse on average, which a race would not score"
    if config.mode != "weighted":
        return f"a race needs one fitness, and the mode is {config.mode}"
    if config.constraints:
        return "a race compares the fitness only, not whether constraints are kept"
    if config.evaluation.backend != "hf":
        return "vLLM would load the weights of a candidate again for each sample"
    for item in objectives:
        if item.is_exact:
            return f"{item.key} is not a mean over documents"
        if not info.metric(item.task, item.metric)[1].is_mean:
            return f"{item.key} is not a mean over documents"
    return None


def _too_few(total: int, least: int) -> str | None:
    """Return that there are too few documents for several samples; None if there are enough."""
    if total >= _SAMPLES * least:
        return None
    return (
        f"{total} documents make fewer than {_SAMPLES} samples of at least {least}, and smaller "
        "ones take more time for each document"
    )


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
    from evomerge.evaluation.fidelity.protocol import check_means

    wanted = config.evaluation
    if wanted.fidelity_policy is None:
        return
    if config.mode != "weighted" or config.constraints:
        what = "`mode` is pareto" if config.mode != "weighted" else "there are constraints"
        raise ConfigError(
            f"`evaluation.{wanted.fidelity_policy}` compares candidates by one fitness, but "
            f"{what}; set `evaluation.{wanted.fidelity_policy}.enabled` to false."
        )
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
