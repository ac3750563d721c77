"""Comparing weights by digests, detecting whether a function has changed a model, freeing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from evomerge.compat.transformers import USAGE_ATTRIBUTES, is_own_hook


def state_of(model: nn.Module, tokenizer: Any) -> list[Any]:
    """Return the state of a model and its tokenizer, to compare with a later one by `has_state`.

    It covers the bytes of all tensors; their shapes, dtypes, devices, memory addresses and whether
    they have gradients; types and attributes of modules (which include hooks, training flags and
    replaced methods); the configs; the tokenizer's special tokens, padding and truncation sides,
    and chat template. It does not cover classes and global state of libraries.
    """
    template = getattr(tokenizer, "chat_template", None)
    found: list[Any] = [tokenizer, repr(tokenizer), repr(template)]
    tensors: dict[str, Tensor] = {}
    configs: dict[int, str] = {}

    def comparable(value: Any) -> Any:
        """Return what `==` compares by content; an object of another kind stands for itself."""
        if isinstance(value, Tensor):
            if value.device.type != "meta":
                tensors[f"{value.data_ptr()} {value.shape}"] = value
            memory = (value.shape, value.stride(), value.dtype, value.device, value.data_ptr())
            return id(value), memory, value.requires_grad, value.is_leaf and value.grad is not None
        if isinstance(value, dict):
            pairs = (pair for pair in value.items() if not is_own_hook(*pair))
            return [(key, comparable(item)) for key, item in pairs]
        if isinstance(value, (list, tuple, set, frozenset)):
            return type(value), [comparable(item) for item in value]
        if hasattr(value, "to_dict"):  # many modules have the same config
            if id(value) not in configs:
                configs[id(value)] = repr(value.to_dict())
            return value, configs[id(value)]
        return value

    for name, module in model.named_modules(remove_duplicate=False):
        own = {key: item for key, item in vars(module).items() if key not in USAGE_ATTRIBUTES}
        found += (name, module, type(module), comparable(own))
    return [*found, digest_of(tensors)]


def has_state(model: nn.Module, tokenizer: Any, state: list[Any]) -> bool:
    """Return whether a model and its tokenizer still have a state."""
    try:
        return state_of(model, tokenizer) == state
    except Exception:  # the state could be read before, so something has changed
        return False


def digest_of(state: Mapping[str, Tensor]) -> str:
    """Return a digest of the names, dtypes, shapes and bytes of some tensors, as 32 hex digits.

    Tensors on an accelerator are copied to the CPU for this, one at a time.
    """
    digest = xxhash.xxh3_128()
    for name, tensor in state.items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        digest.update(flat.view(torch.uint8).numpy().data)
    return digest.hexdigest()


def free_weights(model: nn.Module | None) -> None:
    """Free the memory of a model's weights, even if other references to the model exist."""
    with suppress(Exception):  # an objective function may have changed the model in any way
        for tensor in () if model is None else (*model.parameters(), *model.buffers()):
            tensor.grad = None
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
