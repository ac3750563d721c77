"""Orthogonal matching pursuit: rows of a matrix as sums of a few rows of another.

Goddard and Fernandes Neto, "Training-Free Tokenizer Transplantation via Orthogonal Matching
Pursuit" (arXiv 2506.06607), find the embedding of a token from those of other tokens by it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_BLOCK = 1 << 22
"""Products of targets and atoms that are in memory at the same time."""

_LISTED = 128
"""Atoms that are looked at between two looks at all of them."""

_SMALL = 1e-5
"""An atom whose part outside of the chosen ones is this share of it or less adds nothing."""


def pursue(
    targets: NDArray[np.float32], atoms: NDArray[np.float32], count: int, every: int = 8
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Approximate each target by a sum of a few atoms.

    Step by step, the atom is chosen that has the largest product with what is left of the target
    (the residual); then the coefficients of all chosen atoms are those of least squares. The chosen
    atoms are kept as Q R (Gram-Schmidt).

    The products with all atoms take most of the time, so they are computed in every eighth step
    only. In the steps between, the atom is one of those that had the largest products then.

    Args:
        targets: shape (T, D).
        atoms: shape (N, D).
        count: atoms of each target, 1 to min(N, D).
        every: steps from one look at all atoms to the next; with 1 it is the plain algorithm.

    Returns:
        indices of atoms and their coefficients, each of the shape (T, count).
    """
    chosen = np.empty((len(targets), count), dtype=np.int64)
    found = np.empty((len(targets), count), dtype=np.float32)
    size = max(1, _BLOCK // len(atoms))
    for start in range(0, len(targets), size):
        block = slice(start, start + size)
        chosen[block], found[block] = _pursue(targets[block], atoms, count, every)
    return chosen, found


def _pursue(
    targets: NDArray[np.float32], atoms: NDArray[np.float32], count: int, every: int
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    rows, width = targets.shape
    listed = max(min(_LISTED, len(atoms)), 1) if every > 1 else 1
    chosen = np.empty((rows, count), dtype=np.int64)
    q = np.zeros((rows, count, width), dtype=np.float32)
    r = np.zeros((rows, count, count), dtype=np.float32)
    residual = targets.copy()
    for step in range(count):
        if step % every == 0:
            products = np.abs(residual @ atoms.T)
            np.put_along_axis(products, chosen[:, :step], -1, axis=1)
            near = np.argpartition(products, -listed)[:, -listed:]
            near.sort()
            nearby = atoms[near]
        products = np.abs(nearby @ residual[..., None])[..., 0]
        used = (near[..., None] == chosen[:, None, :step]).any(2)
        products[used] = -1
        chosen[:, step] = np.take_along_axis(near, products.argmax(1)[:, None], axis=1)[:, 0]
        atom = atoms[chosen[:, step]]
        inside = (q[:, :step] @ atom[..., None])[..., 0]
        outside = atom - (inside[:, None] @ q[:, :step])[:, 0]
        length = np.linalg.norm(outside, axis=1)
        adds = length > _SMALL * np.linalg.norm(atom, axis=1)
        r[:, :step, step] = np.where(adds[:, None], inside, 0)
        r[:, step, step] = np.where(adds, length, 1)
        q[:, step] = np.where(adds[:, None], outside / r[:, step, step, None], 0)
        residual -= np.vecdot(q[:, step], residual)[:, None] * q[:, step]
    return chosen, np.linalg.solve(r, q @ targets[..., None])[..., 0]
