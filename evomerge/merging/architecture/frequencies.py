"""Checking the frequencies of rotary positions, which are computed from settings alone.

A scaling by 0, for example, makes them infinite, and then every output of the model is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from evomerge.errors import CheckpointError

_NAME = "inv_freq"


def check_frequencies(model: nn.Module) -> None:
    """Check that all rotary frequencies of a model are finite numbers.

    Args:
        model: a model of transformers, which may be on the device `meta`.

    Raises:
        CheckpointError: they are not.
    """
    for kind, config in _rotary(model):
        try:
            with torch.device("cpu"):
                made = kind(config)
            frequencies = [item for name, item in made.named_buffers() if _NAME in name]
            scaling = float(getattr(made, "attention_scaling", 1.0))
        except Exception:  # it needs more than a config, or transformers refuses it elsewhere
            continue
        if not (math.isfinite(scaling) and all(map(_is_finite, frequencies))):
            raise CheckpointError(
                f"the rotary frequencies that {kind.__name__} computes from rope_theta, "
                "rope_scaling or rope_parameters are not finite numbers, so every output is NaN"
            )


def _rotary(model: nn.Module) -> Iterator[tuple[type, object]]:
    """Yield class and config of each kind of rotary module."""
    seen = set[tuple[type, int]]()
    for module in model.modules():
        named = any(_NAME in name for name, _ in module.named_buffers(recurse=False))
        config = getattr(module, "config", None)
        if named and config is not None and (type(module), id(config)) not in seen:
            seen.add((type(module), id(config)))
            yield type(module), config


def _is_finite(frequencies: Tensor) -> bool:
    return bool(torch.isfinite(frequencies).all())
