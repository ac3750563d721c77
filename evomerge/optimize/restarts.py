"""When a search by CMA-ES has converged, so that it may begin again elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

SHORT = 0.1
"""Steps count as short below this share of the initial ones."""

SMALL = 1e-9
"""A gain counts as small up to this share of the gain since the first generation."""

GENERATIONS = 20
"""Number of generations that are looked back on."""


class Convergence:
    """Decides by losses and steps whether a search has converged.

    It has if the gain of the last `GENERATIONS` generations is small while all steps are short.
    Only gains count, since no loss is the best one for sure. Scores of few documents have few
    distinct values, so a small gain alone does not mean that the search has converged; but if all
    losses of these generations are equal, there is nothing that could be learned.
    """

    def __init__(self) -> None:
        self._first: float | None = None
        self._best: list[float] = []
        """The best loss up to each generation."""
        self._ranges: list[tuple[float, float]] = []

    def after(self, losses: Sequence[float], longest_step: float) -> bool:
        """Note a generation; return whether the search has converged with it.

        Args:
            losses: of the generation's points, finite.
            longest_step: longest standard deviation, as a share of this search's initial one.
        """
        if self._first is None:
            self._first = float(np.median(losses))
        best = min(losses)
        self._best.append(min(best, self._best[-1]) if self._best else best)
        self._ranges.append((best, max(losses)))
        if len(self._best) <= GENERATIONS:
            return False
        low, high = zip(*self._ranges[-GENERATIONS:], strict=True)
        now = self._best[-1]
        gain, most = self._best[-1 - GENERATIONS] - now, SMALL * (self._first - now)
        return min(low) == max(high) or (longest_step < SHORT and gain <= most)
