"""What the merge of whole matrices costs in time and memory, by measurements.

Those of the time are in docs/methods.md. The memory is that by which the process grew, for matrices
of 600 to 2,400 rows and columns and two to four sources.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod

from evomerge.merging.methods.method import Method, WorkingBytes

SVD_SECONDS = 5.4
"""CPU seconds of a singular value decomposition of a matrix of 2,048 x 2,048, on one core."""


def merge_seconds(method: Method, shapes: Iterable[Sequence[int]], sources: int) -> float:
    """Return about how many seconds of CPU time the merge of whole matrices takes, on one core.

    Args:
        method: the method.
        shapes: the shapes of the merged tensors, without embeddings and head. A tensor with three
            dimensions is a stack of matrices; others than these two kinds are free.
        sources: number of sources.

    Returns:
        the seconds; 0 if the method does not work on whole matrices.
    """
    if method.svds is None:
        return 0.0
    fixed, each = method.svds
    work = 0
    for shape in shapes:
        if len(shape) in (2, 3):
            *stack, rows, columns = shape
            work += (stack or [1])[0] * rows * columns * min(rows, columns)
    return SVD_SECONDS * (fixed + each * sources) * work / 2048**3


def copies(fixed: float, each: float = 0.0, columns: float = 0.0) -> WorkingBytes:
    """Return the memory of a merge that holds float64 copies of a matrix.

    Of a stack of matrices, one is merged at a time; the result is float32.

    Args:
        fixed: number of copies in any case.
        each: number of copies for each source.
        columns: number of square matrices with as many rows and columns as the matrix has columns.
    """

    def working_bytes(shape: Sequence[int], sources: Sequence[Mapping[str, float]]) -> float:
        if len(shape) not in (2, 3) or min(shape[-2:]) < 2:
            return 0.0
        held = (fixed + each * len(sources)) * shape[-2] * shape[-1] + columns * shape[-1] ** 2
        return 8 * held + 4 * prod(shape)

    return working_bytes
