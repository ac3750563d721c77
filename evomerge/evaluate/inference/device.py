"""Where models are scored."""

from __future__ import annotations

from evomerge.errors import ConfigError


def choose_device(wanted: str) -> str:
    """Return the torch device for `evaluation.device`; `auto` takes an accelerator if there is one.

    Raises:
        ConfigError: torch does not know the device, or this machine has none.
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
"""Parameters below which a CPU scores a model on one thread."""


def choose_threads(parameters: int, device: str) -> None:
    """Score small models on one thread.

    Two threads wait for each other longer than they compute there, and on a machine that is busy
    otherwise many times longer. The choice depends on the model alone, not on a measurement, since
    the number of threads shows in the last bits of a score.
    """
    import torch

    if device == "cpu" and parameters < SMALL:
        torch.set_num_threads(1)
