"""A part of a model as a function of the hidden state, with weights that can be multiplied."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from torch import Tensor

_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


class NoMiniatureError(Exception):
    """A small copy of an architecture cannot be made or run; the message says why."""


@dataclass(frozen=True)
class WeightGroup:
    """All tensors of one kind in a submodel (for example, the same matrix of all experts).

    Attributes:
        name: the tensors' kind (see `kind_of`).
        views: the tensors, as views into the model's parameters.
        offset: what the architecture adds to the weight before it uses it (1 in Gemma's norms).
    """

    name: str
    views: tuple[Tensor, ...]
    offset: float

    @property
    def is_vector(self) -> bool:
        """Whether the tensors have one dimension: weights of norms, and biases."""
        return self.views[0].dim() == 1


@dataclass(frozen=True)
class Submodel:
    """A block, or all that follows the last block, as a function of the hidden state.

    Attributes:
        run: the function; takes a float32 hidden state of shape (1, tokens, features).
        state: a random hidden state to call it with.
        weights: its weights, in the order in which the architecture registers them.
        degree: 1 if the result is a hidden state (a block), 0 if it is logits.
    """

    run: Callable[[Tensor], Tensor]
    state: Tensor
    weights: Sequence[WeightGroup]
    degree: int


@contextmanager
def multiplied(pairs: Sequence[tuple[WeightGroup, float]]) -> Iterator[None]:
    """Multiply weights by their factors inside of the `with` block, then restore them."""
    kept = [(view, view.clone()) for weight, _ in pairs for view in weight.views]
    for weight, factor in pairs:
        for view in weight.views:
            view.add_(weight.offset).mul_(factor).sub_(weight.offset)
    try:
        yield
    finally:
        for view, old in kept:
            view.copy_(old)


def kind_of(rest: str) -> str:
    """Return the kind of a tensor: its name within a block with numbers (of experts) as `*`."""
    return _NUMBER.sub("*", rest)
