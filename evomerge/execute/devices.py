"""The accelerators of this machine that workers take."""

from collections.abc import Mapping

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.schema import SearchConfig
from evomerge.device import choose_device, count_devices
from evomerge.errors import ConfigError


def accelerator(evaluation: EvaluationConfig) -> str:
    """Return the kind of device that workers take; an engine takes an accelerator anyway."""
    beside = evaluation.engine.is_separate and evaluation.device == "cpu"
    return choose_device("auto" if beside else evaluation.device)


def check_accelerators(evaluation: EvaluationConfig) -> None:
    """Raise a ConfigError if there are fewer accelerators than an engine is divided over."""
    size, device = evaluation.tensor_parallel, accelerator(evaluation)
    if device != "cpu" and (there := count_devices(device)) < size:
        raise ConfigError(
            f"`evaluation.tensor_parallel` is {size}, but this machine has {there}; lower it."
        )


def device_change(config: SearchConfig, peak: Mapping[str, int]) -> str | None:
    """Return a warning if models were scored on an accelerator before and are not now, or reversed.

    Args:
        config: the search file of a run.
        peak: largest memory of the run so far, in bytes; see `Timings.peak`. An engine (vLLM) is a
            process of its own, whose accelerator is not in it.

    Returns:
        None: it is the same device, or nothing is known, as of other machines.
    """
    if not peak or not config.executor.is_local:
        return None
    try:
        device = accelerator(config.evaluation).partition(":")[0]
    except ConfigError:  # there is no such device here, which matters only if models are scored
        return None
    was_used = peak.get("accelerator", 0) > 0
    if was_used and device == "cpu":
        then, here = "an accelerator", "the CPU"
    elif not was_used and device == "cuda" and not config.evaluation.engine.is_separate:
        then, here = "the CPU", "an accelerator"
    else:
        return None
    return (
        f"Candidates of this run were scored on {then}, and are scored on {here} now. Scores are "
        "as right, but their last digits and the course of the search may differ; for the same "
        f"search, go on where {then} scores them."
    )
