"""Comparing weights by digests, detecting whether a function has changed a model, freeing it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from types import FunctionType
from typing import Any, TypeAlias

import torch
import xxhash
from torch import Tensor, nn

State: TypeAlias = Any
"""Nested tuples; they are equal if nothing was changed."""

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(None))
_USAGE_ATTRIBUTES = frozenset({"warnings_issued", "_output_capturing_hooks_installed"})
"""Attributes that transformers sets when a model is only used."""


class Fingerprint:
    """The state of a model and its tokenizer at one moment, to compare with a later state.

    It covers the bytes of all parameters and buffers; the names, shapes, dtypes, devices and memory
    addresses of tensors; gradients; types and attributes of modules (which include hooks, training
    flags and replaced methods); the configs; the tokenizer's special tokens, padding and truncation
    sides, and chat template. It does not cover classes and global state of libraries.

    Every weight is read once. Weights on an accelerator are copied to the CPU for this, one tensor
    at a time.

    Args:
        model: a model of transformers.
        tokenizer: its tokenizer, or None.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        structure = _Structure()
        self._state = structure.of(model), _tokenizer_state(tokenizer)
        # Keep the objects, since Python may reuse the id of an object that no longer exists.
        self._held = structure.held
        self._bytes = _digests(structure.tensors)

    def matches(self, model: nn.Module, tokenizer: Any) -> bool:
        """Return whether the model and the tokenizer are unchanged."""
        structure = _Structure()
        try:
            if (structure.of(model), _tokenizer_state(tokenizer)) != self._state:
                return False
            return _digests(structure.tensors) == self._bytes
        except Exception:  # the state could be read before, so something has changed
            return False


class _Structure:
    """Collects the state of a model; what cannot be compared by value is compared by identity."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.tensors: list[Tensor] = []

    def of(self, value: Any) -> State:
        """Return the state of an attribute, a tensor, a module or a config."""
        if isinstance(value, _PLAIN):
            return repr(value)
        if id(value) in self.held:
            return id(value)
        if not isinstance(value, (dict, list, tuple, set, frozenset)):
            self.held[id(value)] = value
        if isinstance(value, Tensor):
            self.tensors.append(value)
            own = (value.requires_grad, value.is_leaf and value.grad is not None)
            memory = (value.shape, value.stride(), value.dtype, value.device, value.data_ptr())
            return (id(value), type(value), *own, *memory)
        if isinstance(value, dict):
            pairs = [pair for pair in value.items() if not _is_transformers_hook(*pair)]
            return (type(value), *((self.of(key), self.of(item)) for key, item in pairs))
        if isinstance(value, (list, tuple, set, frozenset)):
            return (type(value), *map(self.of, value))
        if isinstance(value, nn.Module) or hasattr(value, "to_dict"):
            attributes = {
                name: item for name, item in vars(value).items() if name not in _USAGE_ATTRIBUTES
            }
            return (id(value), type(value), self.of(attributes))
        return (id(value), type(value))


def _is_transformers_hook(key: Any, item: Any) -> bool:
    """Return whether an item of a dictionary is a hook that transformers registers itself.

    With `output_hidden_states=True`, it registers some on first use, which have no effect later.
    """
    return (
        isinstance(key, int)
        and isinstance(item, FunctionType)
        and item.__module__.startswith("transformers.")
    )


def _tokenizer_state(tokenizer: Any) -> State:
    """Return a tokenizer's `repr` (special and added tokens, sides, longest input) and template."""
    template = repr(getattr(tokenizer, "chat_template", None))
    return (id(tokenizer), type(tokenizer), repr(tokenizer), template)


def _digests(tensors: list[Tensor]) -> dict[int, bytes]:
    """Return a digest of every storage of the tensors: memory address -> digest."""
    found: dict[int, bytes] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in found and tensor.device.type != "meta":
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            found[storage.data_ptr()] = xxhash.xxh3_128_digest(flat.cpu().numpy().data)
    return found


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
