"""When a search by CMA-ES has converged, and how it is started again elsewhere (IPOP, BIPOP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

SHORT = 0.1
"""Steps count as short below this share of the initial ones."""

SMALL = 0.01
"""A gain counts as small up to this share of the gain since the first generation."""

GENERATIONS = 10
"""Number of generations that are looked back on."""


class Convergence:
    """Decides by losses and steps whether a search has converged.

    It has if the gain of the last `GENERATIONS` generations is small while all steps are short.
    Scores of few documents have few distinct values, so a small gain alone does not mean that the
    search has converged; but if all losses of these generations are equal, there is nothing that
    could be learned.
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
        gain, total = self._best[-1 - GENERATIONS] - self._best[-1], self._first - self._best[-1]
        return min(low) == max(high) or (longest_step < SHORT and gain <= SMALL * total)


@dataclass(frozen=True)
class Begin:
    """How a search begins.

    Attributes:
        population: trials in a generation.
        step: initial steps, as a share of those of the first search.
        trials: number of trials after which it ends even if it has not converged; None: any number.
    """

    population: int
    step: float = 1.0
    trials: int | None = None


class Restarts(Protocol):
    """Says how the searches after the first one begin."""

    def after(self, trials: int, random: np.random.RandomState) -> Begin:
        """Return how the next search begins.

        Args:
            trials: number of trials of the search that has just ended.
            random: gives random numbers for this restart.
        """
        ...


class Ipop:
    """Each search has twice the population of the one before (Auger & Hansen 2005).

    Args:
        population: that of the first search.
    """

    def __init__(self, population: int) -> None:
        self._population = population

    def after(self, trials: int, random: np.random.RandomState) -> Begin:
        """Return how the next search begins."""
        self._population *= 2
        return Begin(self._population)


class Bipop:
    """Large searches, whose population doubles, and small ones in between (Hansen 2009).

    The kind that has had fewer trials in all is next. A small search has a population between that
    of the first search and half of the last large one's, and steps between a hundredth of the
    first ones and these, both at random. It ends after half the trials of the last large search.
    The first search counts as neither.

    Args:
        population: that of the first search.
    """

    def __init__(self, population: int) -> None:
        self._first = self._large = population
        self._spent = {"large": 0, "small": 0}
        self._kind: str | None = None
        self._longest = 0

    def after(self, trials: int, random: np.random.RandomState) -> Begin:
        """Return how the next search begins."""
        if self._kind is not None:
            self._spent[self._kind] += trials
        if self._kind == "large":
            self._longest = trials
        self._kind = "small" if self._spent["small"] < self._spent["large"] else "large"
        if self._kind == "large":
            self._large *= 2
            return Begin(self._large)
        growth = self._large / self._first / 2
        size = int(self._first * growth ** (random.uniform() ** 2))
        return Begin(size, 10 ** (-2 * random.uniform()), self._longest // 2)
