"""The device and the number of CPU threads that models are scored with."""

from __future__ import annotations

from evomerge.errors import ConfigError


def choose_device(wanted: str) -> str:
    """Return the torch device for `evaluation.device`; `auto` is an accelerator if there is one.

    Raises:
        ConfigError: torch does not know the device, or this machine does not have it.
    """
    import torch

    if wanted == "auto":
        found = torch.accelerator.current_accelerator(check_available=True)
        return str(found) if found is not None else "cpu"
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConfigError(
            f"`evaluation.device` is {wanted!r}, which cannot be used here ({reason}); use auto, "
            "cpu, cuda, cuda:0 or mps."
        ) from error
    return wanted


SMALL = 30_000_000
"""A model with fewer parameters than this is scored on one CPU thread."""


def choose_threads(parameters: int, device: str) -> None:
    """Set torch to one thread if a small model is scored on a CPU.

    With a small model, threads spend more time waiting for each other than computing, and much
    more so on a busy machine. The choice depends only on the model, not on a measurement, because
    the number of threads changes the last bits of a score.
    """
    import torch

    if device == "cpu" and parameters < SMALL:
        torch.set_num_threads(1)
