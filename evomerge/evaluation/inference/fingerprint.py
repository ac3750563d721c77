"""Comparing weights by digests, detecting whether a function has changed a model, freeing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch
import xxhash
from torch import Tensor, nn

from evomerge.compat.transformers import USAGE_ATTRIBUTES, is_own_hook

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(None))


class Fingerprint:
    """The state of a model and its tokenizer at one moment, to compare with a later state.

    It covers the bytes of all tensors; their shapes, dtypes, devices, memory addresses and whether
    they have gradients; types and attributes of modules (which include hooks, training flags and
    replaced methods); the configs; the tokenizer's special tokens, padding and truncation sides,
    and chat template. It does not cover classes and global state of libraries.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        self._held: dict[int, Any] = {}  # or Python could use the id of an object again
        self._state = self._of(model, tokenizer)

    def matches(self, model: nn.Module, tokenizer: Any) -> bool:
        """Return whether the model and the tokenizer are unchanged."""
        try:
            return self._of(model, tokenizer) == self._state
        except Exception:  # the state could be read before, so something has changed
            return False

    def _of(self, model: nn.Module, tokenizer: Any) -> list[Any]:
        template = getattr(tokenizer, "chat_template", None)
        found: list[Any] = [self._named(tokenizer), repr(tokenizer), repr(template)]
        tensors: dict[str, Tensor] = {}
        seen: set[int] = set()  # a value may contain itself
        waiting: list[Any] = [model]
        while waiting:
            value = waiting.pop()
            inside: list[Any] = []
            if isinstance(value, _PLAIN):
                found.append(repr(value))
                continue
            if isinstance(value, dict):
                pairs = [pair for pair in value.items() if not is_own_hook(*pair)]
                found.append(len(pairs))
                inside = [part for pair in pairs for part in pair]
            elif isinstance(value, (list, tuple, set, frozenset)):
                found.append((type(value), len(value)))
                inside = list(value)
            else:
                found.append(self._named(value))
            if id(value) in seen:
                continue
            seen.add(id(value))
            waiting += inside
            if isinstance(value, Tensor):
                if value.device.type != "meta":
                    tensors[f"{value.data_ptr()} {value.shape}"] = value
                memory = (value.shape, value.stride(), value.dtype, value.device)
                own = (value.requires_grad, value.is_leaf and value.grad is not None)
                found.append((*memory, value.data_ptr(), *own))
            elif isinstance(value, nn.Module) or hasattr(value, "to_dict"):
                for name in sorted(vars(value).keys() - USAGE_ATTRIBUTES):
                    waiting += (name, vars(value)[name])
        return [*found, digest_of(tensors)]

    def _named(self, value: Any) -> tuple[int, type]:
        """Return the identity and the type of an object."""
        self._held[id(value)] = value
        return id(value), type(value)


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
