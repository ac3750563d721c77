"""How many tokens a batch may hold on a device."""

from __future__ import annotations

from typing import Any

import torch

_CPU_TOKENS = 4096  # larger batches only spoil the caches of a CPU
_SHARE = 0.25  # of a device's memory, for what a batch needs besides the weights


def token_budget(model: Any) -> int:
    """Return the most tokens in a batch.

    Set by the device's total memory and the model's shape, not by what is free at the moment, so
    that a resumed search makes the same batches.
    """
    if model.device.type == "cpu":
        return _CPU_TOKENS
    config = model.config.get_text_config()
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    layers = int(config.num_hidden_layers)
    vocabulary = int(config.vocab_size)
    size = model.dtype.itemsize
    per_token = size * (8 * width + 3 * inner + 2 * width * layers) + 12 * vocabulary
    if model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
    else:
        total = 8 * 2**30
    return max(256, min(2**17, int(total * _SHARE / per_token)))


def is_exhausted(error: RuntimeError) -> bool:
    """Tell whether an error says that memory ran out."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error).lower()
    return "out of memory" in text or "can't allocate memory" in text
