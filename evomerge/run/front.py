"""Fronts: sets of points of which none dominates another. Higher is better everywhere."""

from collections.abc import Collection, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Point: TypeAlias = tuple[float, ...]
"""The value of each objective."""


def nondominated(points: Collection[Point]) -> list[Point]:
    """Return the points, in their order, that no other one dominates."""
    rows = np.array(list(points))
    return [
        point
        for point, row in zip(points, rows, strict=True)
        if not np.any(np.all(rows >= row, axis=1) & np.any(rows > row, axis=1))
    ]


def knee(front: Sequence[Point]) -> Point:
    """Return the point nearest to the ideal point, which has the highest value of each objective.

    Objectives are scaled to their range on the front (compromise programming, Zeleny 1973).
    """
    distances = np.linalg.norm(1.0 - _scaled(front), axis=1)
    return front[int(np.argmin(np.round(distances, 12)))]


def spread(front: Sequence[Point], count: int) -> list[Point]:
    """Return `count` points of a front that are far apart, in the order of the front.

    These are the knee, the best of each objective, then each time the farthest from those taken.
    """
    if count >= len(front):
        return list(front)
    scaled = _scaled(front)
    first = [front.index(knee(front)), *np.argmax(scaled, axis=0).tolist()]
    chosen = list(dict.fromkeys(first))[:count]
    while len(chosen) < count:
        gaps = np.linalg.norm(scaled[:, None] - scaled[chosen][None], axis=2).min(axis=1)
        gaps[chosen] = -1.0
        chosen.append(int(np.argmax(gaps)))
    return [front[index] for index in sorted(chosen)]


def _scaled(front: Sequence[Point]) -> NDArray[np.float64]:
    """Return the points, each objective scaled from 0 to 1; 1 where all values are equal."""
    rows = np.array(front, dtype=float)
    low, high = rows.min(axis=0), rows.max(axis=0)
    span = np.where(high > low, high - low, 1.0)
    return np.where(high > low, (rows - low) / span, 1.0)
