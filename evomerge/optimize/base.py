"""The base classes of optimizers: trial numbers, enqueued genomes, failures, constraints."""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Genome

LARGEST = 1e18
"""Losses are clipped to plus and minus this value, and violations to this value. It is large, since
the number of parameters of a model is a loss, too."""

BROKEN = 2e18
"""Loss of a point that hardly breaks a constraint, for optimizers that do not know constraints."""

FAILED = 1e19
"""Violation of a failure: it is worse than every point that breaks a constraint."""

SKIPPED_GENOMES = 20
"""So often in a row an algorithm may propose what has been tried already, before it is tried again:
in a space without anything new, for example."""

INJECTED_SHARE = 0.2
"""Largest share of a generation that were not sampled by the algorithm. They are few, since step
sizes are learned from the lengths and ranks of samples; they pull the mean anyhow."""

AMENDED = object()
"""Stands for a proposal instead of which another point was tried."""

Sample = TypeVar("Sample")


class BaseOptimizer(ABC):
    """Implements the protocol; a subclass proposes points of the unit cube and learns losses.

    A subclass overrides `propose`, and `learn` or, for several objectives, `learn_all`.

    A genome is tried once. If the algorithm proposes it again, it learns the known outcome at once
    (`learn_again`), or as soon as that is told, and proposes the next one. So it goes on as if it
    had been tried again, but no trial is spent.
    """

    def __init__(self, cube: Cube, population: int, objectives: int = 1) -> None:
        self.cube = cube
        self.population, self._objectives = population, objectives
        self._trials = itertools.count()
        self._open: dict[int, tuple[object, Vector, bytes]] = {}
        """Handle (None: the algorithm did not propose it), point and key of each open trial."""
        self._enqueued: deque[Genome] = deque()
        self._tries: dict[bytes, tuple[tuple[float, ...], float] | None] = {}
        """Losses and violation of each genome that was asked, by key; None until they are told."""
        self._repeats: dict[bytes, list[tuple[object, Vector]]] = {}
        """Further proposals of such genomes, which wait for the outcome."""

    @abstractmethod
    def propose(self) -> tuple[object, Vector]:
        """Return a new proposal: the algorithm's object for it (not None), and its point."""

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Learn the loss of a point, if there is one objective.

        Args:
            handle: the object that `propose` returned with the point, or None if the algorithm did
                not propose the point.
            point: the point, shape (genes,).
            loss: finite; lower is better. Losses of points that break no constraint are at most
                `LARGEST`; above them, from `BROKEN` on, are those of points that break one, the
                more the higher; and above these, all equal, those of failures.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither learn nor learn_all.")

    def learn_all(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Learn the losses of a point. Without an override, `learn` gets a single one.

        Args:
            losses: shape (objectives,), at most `LARGEST`; lower is better. Those of a failure say
                nothing.
            violation: by how much the point breaks constraints, at most `LARGEST`; 0 if it breaks
                none; `FAILED` for a failure.
        """
        # From BROKEN to twice BROKEN. Small and large violations keep their order: a sum of both
        # would lose the digits of small ones.
        broken = BROKEN * (1 + violation / (1 + violation))
        self.learn(handle, point, float(losses[0]) if violation == 0 else broken)

    def learn_again(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Learn the known outcome of a proposal that was tried already; as `learn_all`."""
        self.learn_all(handle, point, losses, violation)

    def amended(self, handle: object) -> object:
        """Return the handle of a proposal instead of which another point was tried."""
        return AMENDED

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""
        handle: object = None
        if self._enqueued:
            genome = self._enqueued.popleft()
            point = self.cube.point(genome)
        else:
            handle, point = self._propose_new()
            genome = self.cube.genome(point)
        trial, key = next(self._trials), _key(genome)
        self._open[trial] = handle, point, key
        self._tries.setdefault(key, None)
        return trial, genome

    def _propose_new(self) -> tuple[object, Vector]:
        """Return the algorithm's next proposal that has not been tried."""
        for repeats in itertools.count():
            handle, point = self.propose()
            key = _key(self.cube.genome(point))
            if key not in self._tries or repeats == SKIPPED_GENOMES:
                break
            outcome = self._tries[key]
            if outcome is None:
                self._repeats.setdefault(key, []).append((handle, point))
            else:
                self.learn_again(handle, point, np.array(outcome[0]), outcome[1])
        return handle, point

    def tell(self, trial: int, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Close a trial; see `Optimizer`."""
        handle, point, key = self._opened(trial)
        if values is not None and len(values) != self._objectives:
            raise ValueError(f"Trial {trial} has {len(values)} values, not {self._objectives}.")
        if values is None or not all(map(math.isfinite, (*values, violation))):
            losses, violation = np.full(self._objectives, LARGEST), FAILED
        else:
            losses = np.clip(-np.asarray(values, float), -LARGEST, LARGEST)
            violation = min(violation, LARGEST)
        del self._open[trial]
        before, outcome = self._tries[key], (tuple(losses.tolist()), violation)
        self._tries[key] = outcome
        if handle is not None or outcome != before:
            self.learn_all(handle, point, losses, violation)
        for repeated in self._repeats.pop(key, ()):
            self.learn_again(*repeated, losses, violation)

    def enqueue(self, genome: Genome) -> None:
        """Add a genome to the queue of genomes that `ask` proposes first; see `Optimizer`."""
        self.cube.point(genome)
        self._enqueued.append(tuple(genome))

    def amend(self, trial: int, genome: Genome) -> None:
        """Replace the genome of an open trial by the one that was really tried; see `Optimizer`.

        If the two are nearly equal (`Cube.is_near`), the algorithm learns from its own sample,
        which is better than from a point that it did not propose.
        """
        handle, proposed, key = self._opened(trial)
        point = self.cube.point(genome)
        if self.cube.is_near(genome, self.cube.genome(proposed)):
            return
        handle = None if handle is None else self.amended(handle)
        self._open[trial] = handle, point, _key(genome)
        is_open = any(key == other for _, _, other in self._open.values())
        if self._tries[key] is None and not is_open:  # it was not tried
            del self._tries[key]
            self._repeats.pop(key, None)
        self._tries.setdefault(_key(genome), None)

    def _opened(self, trial: int) -> tuple[object, Vector, bytes]:
        if trial not in self._open:
            raise ValueError(f"Trial {trial} is not open: never asked, or told already.")
        return self._open[trial]


@dataclass(frozen=True)
class Told(Generic[Sample]):
    """An outcome."""

    sample: Sample | None
    """The algorithm's own; None if it did not sample the point, or not exactly."""
    point: Vector
    loss: float


class Generations(BaseOptimizer, Generic[Sample]):
    """Collects the losses of a generation, from which the algorithm learns at once.

    Points that were enqueued do not count into it; else a first one could be of baselines only,
    which say nothing about the distribution. The best of them, up to `INJECTED_SHARE`, take the
    places of the worst samples if they are better than these (injection, Hansen 2011, arXiv
    1110.4181). Amended points count as samples.

    Args:
        population: samples of a generation; None: 4 + floor(3 ln n) for n genes, as of CMA-ES.
    """

    def __init__(self, cube: Cube, population: int | None) -> None:
        genes = max(2, len(cube.genes))
        super().__init__(cube, population or 4 + int(3 * math.log(genes)))
        self._told: list[Told[Sample]] = []
        self._injected: list[Told[Sample]] = []

    @abstractmethod
    def update(self, told: list[Told[Sample]]) -> None:
        """Learn a generation."""

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect a loss; with the last one of a generation, the distribution is updated.

        A generation of equal losses says nothing, and would move the distribution at random.
        """
        if handle is None:
            # The start is the first mean. As a sample it would be a step of no length, by which
            # steps are shortened.
            if not np.array_equal(point, self.cube.start):
                self._injected.append(Told(None, point, loss))
            return
        sample = None if handle is AMENDED else handle
        self._told.append(Told(sample, point, loss))  # type: ignore[arg-type]
        if len(self._told) == self.population:
            generation = self._with_injected()
            self._told, self._injected = [], []
            if len({item.loss for item in generation}) > 1:
                self.update(generation)

    def _with_injected(self) -> list[Told[Sample]]:
        """Return the generation, in which injected points have replaced the worst samples."""
        most = max(1, math.floor(INJECTED_SHARE * len(self._told)))
        every = [*self._told, *sorted(self._injected, key=lambda told: told.loss)[:most]]
        best = sorted(range(len(every)), key=lambda place: every[place].loss)[: len(self._told)]
        return [every[place] for place in sorted(best)]


def _key(genome: Genome) -> bytes:
    """Return a short key of a genome; the genomes of a long search would take gigabytes."""
    values = np.array(genome, float) + 0.0  # no negative zeros
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
