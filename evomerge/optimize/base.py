"""What all optimizers of one objective share: trial numbers, enqueued genomes, failures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Genome

Move = tuple[object, Vector]
"""The algorithm's handle of an open trial (None if it did not propose it), and the point tried."""

LARGEST_LOSS = 1e20
"""Losses are cut off at plus and minus this, so that an optimizer can add and square them."""


class Trials(ABC):
    """Keeps the protocol's laws; a subclass proposes points of the unit cube and learns losses.

    Args:
        cube: the genes' coordinate system.
        population: trials in a generation.
    """

    def __init__(self, cube: Cube, population: int) -> None:
        self.cube = cube
        self._population = population
        self._asked = 0
        self._open: dict[int, Move] = {}
        self._enqueued: deque[Genome] = deque()
        self._failed: list[Move] = []
        self._worst = -math.inf

    @abstractmethod
    def propose(self) -> tuple[object, Vector]:
        """Return the algorithm's handle (not None) on a new proposal and its point."""

    @abstractmethod
    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Learn the loss of a point: finite, lower is better.

        `handle` is None if the algorithm did not propose this point.
        """

    @property
    def population(self) -> int:
        """Trials in a generation; 1 for optimizers that know none."""
        return self._population

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""
        if self._enqueued:
            genome = self._enqueued.popleft()
            move: Move = (None, self.cube.point(genome))
        else:
            move = self.propose()
            genome = self.cube.genome(move[1])
        trial = self._asked
        self._open[trial] = move
        self._asked += 1
        return trial, genome

    def tell(self, trial: int, values: Sequence[float] | None) -> None:
        """Close a trial: one objective value (higher is better), or None for a failure.

        Raises:
            ValueError: no such trial is open, or there are several values.
        """
        if trial not in self._open:
            raise ValueError(f"Trial {trial} is not open; it was never asked, or told already.")
        if values is not None and len(values) != 1:
            raise ValueError(f"{type(self).__name__} wants one objective, not {len(values)}.")
        move = self._open.pop(trial)
        if values is None or not math.isfinite(values[0]):
            self._failed.append(move)
        else:
            loss = max(-LARGEST_LOSS, min(LARGEST_LOSS, -float(values[0])))
            self._worst = max(self._worst, loss)
            self.learn(*move, loss)
        if self._worst > -math.inf:
            for failed in self._failed:
                self.learn(*failed, self._worst)
            self._failed.clear()

    def enqueue(self, genome: Genome) -> None:
        """Make the next `ask` propose this genome.

        Raises:
            ValueError: the genome does not belong to the space.
        """
        self.cube.point(genome)
        self._enqueued.append(tuple(genome))

    def amend(self, trial: int, genome: Genome) -> None:
        """Say that what an open trial really tried is `genome`.

        A difference too small to matter (`Cube.is_near`) is ignored: an algorithm that learns from
        its own samples stays as close to its recorded course as floating point allows.

        Raises:
            ValueError: no such trial is open, or the genome does not belong to the space.
        """
        if trial not in self._open:
            raise ValueError(f"Trial {trial} is not open; it was never asked, or told already.")
        point = self.cube.point(genome)
        if not self.cube.is_near(genome, self.cube.genome(self._open[trial][1])):
            self._open[trial] = (None, point)


def default_population(genes: int) -> int:
    """Return CMA-ES's population for a number of genes: 4 + floor(3 ln n)."""
    return 4 + int(3 * math.log(max(2, genes)))
