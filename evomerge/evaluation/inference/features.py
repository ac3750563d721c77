"""Image features that are kept: what vision tower and projector make of an image.

Candidates that differ only in their language model see an image alike. So its features are kept in
the memory of the CPU, by a digest of all that they are computed from except weights: pixels, sizes,
settings.
"""

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor

_UNREAD = frozenset({"last_hidden_state", "hidden_states", "attentions"})
"""Outputs of a tower that the language model does not read."""


@dataclass
class ImageFeatures:
    """Image features by digest, of one tower, in at most `memory` bytes.

    What does not fit is computed for each candidate.
    """

    memory: int
    _tower: object = None
    _outputs: dict[str, tuple[torch.device, Any]] = field(default_factory=dict)
    _bytes: int = 0

    @contextmanager
    def kept(self, model: Any, tower: object) -> Iterator[None]:
        """While the context is open, a model takes the features that are kept, and new ones are.

        `tower` stands for the weights of tower and projector: with another object than the one
        before, all features are dropped. A model without `get_image_features` stays as it is.
        """
        inner = getattr(model, "model", model)
        compute = getattr(inner, "get_image_features", None)
        if compute is None:
            yield
            return
        if tower is not self._tower:
            self._tower, self._bytes, self._outputs = tower, 0, {}

        @wraps(compute)  # `generate` passes what the signature names
        def get_image_features(*args: Any, **options: Any) -> Any:
            key = repr(_each((args, options), _digest))
            if (known := self._outputs.get(key)) is not None:
                device, features = known
                return _each(features, lambda tensor: tensor.to(device))
            features = compute(*args, **options)
            tensors: list[Tensor] = []
            _each(features, tensors.append)
            size = sum(tensor.nbytes for tensor in tensors)
            if self._bytes + size <= self.memory:
                self._bytes += size
                stored = _each(features, lambda tensor: tensor.detach().to("cpu", copy=True))
                self._outputs[key] = tensors[0].device, stored
            return features

        inner.get_image_features = get_image_features  # of this object, not of its class
        try:
            yield
        finally:
            del inner.get_image_features


def _each(value: Any, change: Callable[[Tensor], object]) -> Any:
    """Return nested outputs with every tensor changed, without what nobody reads."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):  # a ModelOutput is one
        read = {name: item for name, item in value.items() if name not in _UNREAD}
        return type(value)(**{name: _each(item, change) for name, item in read.items()})
    if isinstance(value, (list, tuple)):
        return type(value)(_each(item, change) for item in value)
    return value


def _digest(tensor: Tensor) -> tuple[object, ...]:
    content = tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data
    return tensor.dtype, tensor.shape, tensor.device, hashlib.sha256(content).hexdigest()
