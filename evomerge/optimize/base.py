"""The base class of optimizers: trial numbers, enqueued genomes, failures, constraints."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence

import numpy as np

from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Genome

OpenTrial = tuple[object, Vector]
"""The algorithm's own object for a trial (None if the algorithm did not propose the point), and
the point of the unit cube that is tried."""

LARGEST_LOSS = 1e20
"""Losses are clipped to plus and minus this value, so that their sums and squares stay finite."""


BROKEN = 1e9
"""Loss of a point that breaks a constraint, for optimizers that do not know constraints; by how
much it breaks them is added. So it is worse than every point that breaks none, unless the loss of
that one is above 1e9."""


class BaseOptimizer(ABC):
    """Implements the protocol; a subclass proposes points of the unit cube and learns losses.

    A subclass overrides `learn`, or, for several objectives or constraints, `learn_all`.

    Args:
        cube: the coordinate system of the genes.
        population: trials in a generation.
        objectives: number of values that each trial is told.
    """

    def __init__(self, cube: Cube, population: int, objectives: int = 1) -> None:
        self.cube = cube
        self._population, self._objectives = population, objectives
        self._asked = 0
        self._open: dict[int, OpenTrial] = {}
        self._enqueued: deque[Genome] = deque()
        self._failed: list[OpenTrial] = []
        self._worst: Vector = np.full(objectives, -math.inf)
        self._most = 0.0

    @abstractmethod
    def propose(self) -> tuple[object, Vector]:
        """Return a new proposal: the algorithm's object for it (not None), and its point."""

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Learn the loss of a point, if there is one objective.

        Args:
            handle: the object that `propose` returned with the point, or None if the algorithm did
                not propose the point.
            point: the point, shape (genes,).
            loss: finite; lower is better. That of a point that breaks a constraint is above
                `BROKEN`.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither learn nor learn_all.")

    def learn_all(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Learn the losses of a point. Without an override, `learn` gets the only one.

        Args:
            handle: as for `learn`.
            point: the point, shape (genes,).
            losses: shape (objectives,), finite; lower is better.
            violation: by how much the point breaks constraints; 0 if it breaks none.
        """
        self.learn(handle, point, float(losses[0]) if violation == 0 else BROKEN + violation)

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

    def tell(self, trial: int, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Close a trial: its values (higher is better), or None for a failure.

        Raises:
            ValueError: no such trial is open, or there is another number of values than objectives.
        """
        self._check_open(trial)
        if values is not None and len(values) != self._objectives:
            wanted = "one value" if self._objectives == 1 else f"{self._objectives} values"
            raise ValueError(f"{type(self).__name__} takes {wanted}, not {len(values)}.")
        opened = self._open.pop(trial)
        if values is None or not all(map(math.isfinite, values)) or not math.isfinite(violation):
            self._failed.append(opened)
        else:
            losses = np.clip(-np.asarray(values, float), -LARGEST_LOSS, LARGEST_LOSS)
            self._worst = np.maximum(self._worst, losses)
            self._most = max(self._most, violation)
            self.learn_all(*opened, losses, violation)
        if np.isfinite(self._worst).all():
            for failed in self._failed:
                self.learn_all(*failed, self._worst, self._most)
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
