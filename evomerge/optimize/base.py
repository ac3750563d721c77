"""The base class of optimizers of one objective: trial numbers, enqueued genomes, failures."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Genome

OpenTrial = tuple[object, Vector]
"""The algorithm's own object for a trial (None if the algorithm did not propose the point), and
the point of the unit cube that is tried."""

LARGEST_LOSS = 1e20
"""Losses are clipped to plus and minus this value, so that their sums and squares stay finite."""


class BaseOptimizer(ABC):
    """Implements the protocol; a subclass proposes points of the unit cube and learns losses.

    Args:
        cube: the coordinate system of the genes.
        population: trials in a generation.
    """

    def __init__(self, cube: Cube, population: int) -> None:
        self.cube = cube
        self._population = population
        self._asked = 0
        self._open: dict[int, OpenTrial] = {}
        self._enqueued: deque[Genome] = deque()
        self._failed: list[OpenTrial] = []
        self._worst = -math.inf

    @abstractmethod
    def propose(self) -> tuple[object, Vector]:
        """Return a new proposal: the algorithm's object for it (not None), and its point."""

    @abstractmethod
    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Learn the loss of a point.

        Args:
            handle: the object that `propose` returned with the point, or None if the algorithm did
                not propose the point.
            point: the point, shape (genes,).
            loss: finite; lower is better.
        """

    @property
    def population(self) -> int:
        """Trials in a generation; 1 for optimizers without generations."""
        return self._population

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""
        if self._enqueued:
            genome = self._enqueued.popleft()
            opened: OpenTrial = (None, self.cube.point(genome))
        else:
            opened = self.propose()
            genome = self.cube.genome(opened[1])
        trial = self._asked
        self._open[trial] = opened
        self._asked += 1
        return trial, genome

    def tell(self, trial: int, values: Sequence[float] | None) -> None:
        """Close a trial: one objective value (higher is better), or None for a failure.

        Raises:
            ValueError: no such trial is open, or there is not exactly one value.
        """
        self._check_open(trial)
        if values is not None and len(values) != 1:
            raise ValueError(f"{type(self).__name__} takes one objective value, not {len(values)}.")
        opened = self._open.pop(trial)
        if values is None or not math.isfinite(values[0]):
            self._failed.append(opened)
        else:
            loss = max(-LARGEST_LOSS, min(LARGEST_LOSS, -float(values[0])))
            self._worst = max(self._worst, loss)
            self.learn(*opened, loss)
        if self._worst > -math.inf:
            for failed in self._failed:
                self.learn(*failed, self._worst)
            self._failed.clear()

    def enqueue(self, genome: Genome) -> None:
        """Add a genome to the queue of genomes that `ask` proposes first.

        Raises:
            ValueError: the genome does not belong to the space.
        """
        self.cube.point(genome)
        self._enqueued.append(tuple(genome))

    def amend(self, trial: int, genome: Genome) -> None:
        """Replace the genome of an open trial by the one that was really tried.

        If the two genomes are nearly equal (`Cube.is_near`), nothing is replaced. The algorithm
        then learns from its own sample, which is better than from a point that it did not propose.

        Raises:
            ValueError: no such trial is open, or the genome does not belong to the space.
        """
        self._check_open(trial)
        point = self.cube.point(genome)
        if not self.cube.is_near(genome, self.cube.genome(self._open[trial][1])):
            self._open[trial] = (None, point)

    def _check_open(self, trial: int) -> None:
        if trial not in self._open:
            raise ValueError(
                f"Trial {trial} is not open; it was never asked, or has been told already."
            )


def default_population(genes: int) -> int:
    """Return the default population of CMA-ES for n genes: 4 + floor(3 ln n)."""
    return 4 + int(3 * math.log(max(2, genes)))
