"""What the merge of whole matrices costs, from the figures of docs/methods.md."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from evomerge.merging.methods.method import Method

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
