"""Tensors block by block, for methods that are written in torch: a block stays in the cache.

Blocks depend on the shape of a tensor only, so sums have the same bits on any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

from evomerge.merging.methods.method import Operands

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 1 << 15
"""Most elements of a block."""

Block: TypeAlias = "tuple[slice, Tensor, Tensor, Tensor]"
"""A part of the flat tensors; there the base and the sources' changes of it (sources, elements), as
float32; and the part of the result that is to be written."""


def blocks(operands: Operands, out: Tensor | None = None) -> Iterator[Block]:
    """Yield the blocks of a merge into `out`, in order."""
    import torch

    base, *sources = (tensor.reshape(-1) for tensor in (operands.base, *operands.tensors))
    target = base if out is None else out.view(-1)
    for left in range(0, len(base), SIZE):
        at = slice(left, left + SIZE)
        start, values = base[at].float(), torch.stack([source[at].float() for source in sources])
        yield at, start, values.sub_(start), target[at]


def total(changes: Tensor) -> Tensor:
    """Return the sum over the sources, in their order."""
    result = changes[0]  # the order in which `Tensor.sum` adds depends on where an element is
    for change in changes[1:]:
        result = result + change
    return result
