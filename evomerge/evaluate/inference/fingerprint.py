"""Telling whether foreign code has changed a model that it was lent."""

from __future__ import annotations

from contextlib import suppress
from types import FunctionType
from typing import Any, TypeAlias

import torch
import xxhash
from torch import Tensor, nn

State: TypeAlias = Any
"""Nested tuples that are equal as long as nothing was changed."""

_PLAIN = (bool, int, float, complex, str, bytes, torch.dtype, torch.device, torch.Size, type(None))
_NOTES = frozenset({"warnings_issued", "_output_capturing_hooks_installed"})
"""Attributes that transformers sets while a model is just used."""


class Fingerprint:
    """A model and its tokenizer at one moment, to be compared with themselves later.

    It covers the bytes of all parameters and buffers; names, shapes, dtypes, devices and memory of
    tensors; gradients; types and attributes of modules, so hooks, training flags and replaced
    methods too; the configurations; the tokenizer's special tokens, sides and template. Classes
    and global state of libraries are not covered.

    A weight is read once, at about the speed of memory; weights on an accelerator are copied to
    the host for it, one at a time.

    Args:
        model: a model of transformers.
        tokenizer: its tokenizer, or None.
    """

    def __init__(self, model: nn.Module, tokenizer: Any) -> None:
        structure = _Structure()
        self._facts = structure.of(model), _tokenizer_facts(tokenizer)
        # Holding the objects keeps their ids from being given to others.
        self._held = structure.held
        self._bytes = _digests(structure.tensors)

    def fits(self, model: nn.Module, tokenizer: Any) -> bool:
        """Whether the model and the tokenizer are as they were."""
        structure = _Structure()
        try:
            if (structure.of(model), _tokenizer_facts(tokenizer)) != self._facts:
                return False
            return _digests(structure.tensors) == self._bytes
        except Exception:  # what cannot even be looked at was different before
            return False


class _Structure:
    """Collects what a model is made of, by identity where it cannot be compared by value."""

    def __init__(self) -> None:
        self.held: dict[int, Any] = {}
        self.tensors: list[Tensor] = []

    def of(self, value: Any) -> State:
        """Return the facts of an attribute, a tensor, a module or a configuration."""
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
            pairs = [pair for pair in value.items() if not _is_own_hook(*pair)]
            return (type(value), *((self.of(key), self.of(item)) for key, item in pairs))
        if isinstance(value, (list, tuple, set, frozenset)):
            return (type(value), *map(self.of, value))
        if isinstance(value, nn.Module) or hasattr(value, "to_dict"):
            attributes = {name: item for name, item in vars(value).items() if name not in _NOTES}
            return (id(value), type(value), self.of(attributes))
        return (id(value), type(value))


def _is_own_hook(key: Any, item: Any) -> bool:
    """Tell whether a dictionary's item is a hook of transformers' own.

    With `output_hidden_states=True` it registers some on first use, which do nothing otherwise.
    """
    return (
        isinstance(key, int)
        and isinstance(item, FunctionType)
        and item.__module__.startswith("transformers.")
    )


def _tokenizer_facts(tokenizer: Any) -> State:
    """Return what a tokenizer says of itself: special and added tokens, sides, longest input."""
    template = repr(getattr(tokenizer, "chat_template", None))
    return (id(tokenizer), type(tokenizer), repr(tokenizer), template)


def _digests(tensors: list[Tensor]) -> dict[int, bytes]:
    """Return a digest of every piece of memory that tensors lie in, by its address."""
    found: dict[int, bytes] = {}
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in found and tensor.device.type != "meta":
            flat = torch.empty(0, dtype=torch.uint8, device=tensor.device).set_(storage)
            found[storage.data_ptr()] = xxhash.xxh3_128_digest(flat.cpu().numpy().data)
    return found


def hollow(model: nn.Module | None) -> None:
    """Free the memory of a model's weights as far as possible, whoever still holds the model."""
    with suppress(Exception):  # foreign code may have left anything in the model's place
        for tensor in () if model is None else (*model.parameters(), *model.buffers()):
            tensor.grad = None
            tensor.data = torch.empty(0, dtype=tensor.dtype, device=tensor.device)
