"""The memory of a backward pass: what it keeps of a batch, and how to keep less.

A backward pass needs the activations of the forward pass. With checkpointing (Chen et al. 2016,
arXiv 1604.06174), only the inputs of the layers are kept, and each layer is computed once more: a
third more time, and the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from evomerge.compat.transformers import checkpointing_layers
from evomerge.evaluation.inference.machine import total_memory

SHARE = 0.5
"""Share of a device's memory that activations may take; if more is needed, fewer are kept."""


def kept_bytes(config: Mapping[str, Any], itemsize: int) -> int:
    """Return about how many bytes a backward pass keeps of each token, without logits.

    For each layer these are four states of the width of its inner part and seven of the model's
    width, and what its two norms keep in float32, as measured with Llama-like models.

    Args:
        config: the settings of the language model, as in config.json.
        itemsize: bytes of a number in the model's dtype.
    """
    width = int(config.get("hidden_size") or config.get("n_embd") or 0)
    inner = int(config.get("intermediate_size") or config.get("n_inner") or 4 * width)
    layers = int(config.get("num_hidden_layers") or config.get("n_layer") or 0)
    return layers * (itemsize * (4 * inner + 7 * width) + 8 * width)


def needs_checkpointing(model: Any, tokens: int) -> bool:
    """Whether the activations of a batch take too much of the device's memory."""
    config = model.config.get_text_config().to_dict()
    return tokens * kept_bytes(config, model.dtype.itemsize) > SHARE * _memory(model.device)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return total_memory()


@contextmanager
def checkpointing(model: Any) -> Iterator[None]:
    """Keep only the inputs of layers in the block; a model without such layers stays as it is.

    Only the layers are in training mode meanwhile, not what is in them, so that nothing is dropped
    out.
    """
    layers = checkpointing_layers(model)
    if not layers:
        yield
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        model.gradient_checkpointing_disable()
