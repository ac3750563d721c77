"""Tensors block by block, for methods that are written in torch: a block stays in the cache.

Blocks depend on the shape of a tensor only, so sums have the same bits on any number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeAlias

from evomerge.merging.methods.method import Operands

if TYPE_CHECKING:
    from torch import Tensor

SIZE = 1 << 15
"""Most elements of a block."""

View: TypeAlias = "Callable[[Tensor], Tensor]"
"""Shows a tensor as a matrix that shares its memory."""

Block: TypeAlias = "tuple[tuple[slice, slice], Tensor, Tensor, Tensor]"
"""Rows and columns of a block; there the base and the sources' changes of it (sources, rows,
columns), as float32; and the part of the result that is to be written."""


def flat(tensor: Tensor) -> Tensor:
    """Show a tensor as one row."""
    return tensor.reshape(1, -1)


def rows(tensor: Tensor) -> Tensor:
    """Show a tensor of two or more dimensions as a matrix: all others times the last dimension."""
    return tensor.flatten(0, -2)


def slices(tensor: Tensor) -> Tensor:
    """Show a tensor of two or more dimensions as a matrix: first dimension times all others."""
    return tensor.reshape(len(tensor), -1)


def columns(tensor: Tensor) -> Tensor:
    """Show a tensor of two or more dimensions with the vectors along the first one as rows."""
    return slices(tensor).T


def blocks(operands: Operands, out: Tensor | None = None, view: View = flat) -> Iterator[Block]:
    """Yield the blocks of a merge into `out`, in the order of rows; without a base, that is 0."""
    import torch

    sources = [view(tensor) for tensor in operands.tensors]
    target = sources[0] if out is None else view(out)
    height, width = target.shape
    wide = max(min(width, SIZE), 1)
    tall = SIZE // wide
    for top in range(0, height, tall):
        for left in range(0, width, wide):
            at = slice(top, top + tall), slice(left, left + wide)
            values = torch.stack([source[at].float() for source in sources])
            base = torch.zeros(()) if operands.base is None else view(operands.base)[at].float()
            yield at, base, values.sub_(base), target[at]


def total(changes: Tensor) -> Tensor:
    """Return the sum over the sources, in their order."""
    result = changes[0]  # the order in which `Tensor.sum` adds depends on where an element is
    for change in changes[1:]:
        result = result + change
    return result


def row_products(operands: Operands, view: View) -> Tensor:
    """Return the dot products of the changes of every pair of sources, for each row of a view.

    Float64, of shape (sources, sources, rows).
    """
    import torch

    count = len(operands.tensors)
    sums = torch.zeros(count, count, len(view(operands.tensors[0])), dtype=torch.float64)
    for at, _, changes, _ in blocks(operands, view=view):
        exact = changes.double()
        sums[..., at[0]] += (exact[:, None] * exact).sum(-1)
    return sums
