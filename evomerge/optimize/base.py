"""The base classes of optimizers: trial numbers, enqueued genomes, failures, constraints."""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import numpy as np

from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Genome

OpenTrial = tuple[object, Vector]
"""The algorithm's own object for a trial (None if the algorithm did not propose the point), and
the point of the unit cube that is tried."""

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


Sample = TypeVar("Sample")

INJECTED_SHARE = 0.2
"""Largest share of a generation that were not sampled by the algorithm. They are few, since step
sizes are learned from the lengths and ranks of samples; they pull the mean anyhow."""


@dataclass
class _TriedGenome:
    """What is known about a genome that was asked."""

    outcome: tuple[tuple[float, ...], float] | None = None
    """The losses and the violation, once they are told."""
    waiting: list[OpenTrial] = field(default_factory=list)
    """Proposals of the same genome, which wait for its outcome."""


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
        self._asked = 0
        self._open: dict[int, OpenTrial] = {}
        self._enqueued: deque[Genome] = deque()
        self._keys: dict[int, bytes] = {}
        self._tries: dict[bytes, _TriedGenome] = {}

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
        """Return the handle of a proposal instead of which another point was tried.

        None, as that of a point that the algorithm did not propose; a subclass that counts its own
        proposals overrides this.
        """
        return None

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""
        if self._enqueued:
            genome = self._enqueued.popleft()
            opened: OpenTrial = (None, self.cube.point(genome))
        else:
            opened, genome = self._new_proposal()
        trial = self._asked
        self._open[trial], self._keys[trial] = opened, _key(genome)
        self._tries.setdefault(self._keys[trial], _TriedGenome())
        self._asked += 1
        return trial, genome

    def _new_proposal(self) -> tuple[OpenTrial, Genome]:
        """Return the algorithm's next proposal that has not been tried, and its genome."""
        for repeats in itertools.count():
            opened = self.propose()
            genome = self.cube.genome(opened[1])
            known = self._tries.get(_key(genome))
            if known is None or repeats == SKIPPED_GENOMES:
                break
            if known.outcome is None:
                known.waiting.append(opened)
            else:
                losses, violation = known.outcome
                self.learn_again(*opened, np.array(losses), violation)
        return opened, genome

    def tell(self, trial: int, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Close a trial; see `Optimizer`."""
        self._check_open(trial)
        if values is not None and len(values) != self._objectives:
            wanted = "one value" if self._objectives == 1 else f"{self._objectives} values"
            raise ValueError(f"{type(self).__name__} takes {wanted}, not {len(values)}.")
        if values is None or not all(map(math.isfinite, values)) or not math.isfinite(violation):
            losses, violation = np.full(self._objectives, LARGEST), FAILED
        else:
            losses = np.clip(-np.asarray(values, float), -LARGEST, LARGEST)
            violation = min(violation, LARGEST)
        opened, known = self._open.pop(trial), self._tries[self._keys.pop(trial)]
        before, known.outcome = known.outcome, (tuple(losses.tolist()), violation)
        if opened[0] is not None or known.outcome != before:
            self.learn_all(*opened, losses, violation)
        for repeated in known.waiting:
            self.learn_again(*repeated, losses, violation)
        known.waiting.clear()

    def enqueue(self, genome: Genome) -> None:
        """Add a genome to the queue of genomes that `ask` proposes first; see `Optimizer`."""
        self.cube.point(genome)
        self._enqueued.append(tuple(genome))

    def amend(self, trial: int, genome: Genome) -> None:
        """Replace the genome of an open trial by the one that was really tried; see `Optimizer`.

        If the two are nearly equal (`Cube.is_near`), the algorithm learns from its own sample,
        which is better than from a point that it did not propose.
        """
        self._check_open(trial)
        point = self.cube.point(genome)
        handle, proposed_point = self._open[trial]
        if not self.cube.is_near(genome, self.cube.genome(proposed_point)):
            self._open[trial] = (None if handle is None else self.amended(handle), point)
            proposed, self._keys[trial] = self._keys[trial], _key(genome)
            if self._tries[proposed].outcome is None and proposed not in self._keys.values():
                del self._tries[proposed]  # it was not tried
            self._tries.setdefault(self._keys[trial], _TriedGenome())

    def _check_open(self, trial: int) -> None:
        if trial not in self._open:
            raise ValueError(
                f"Trial {trial} is not open; it was never asked, or has been told already."
            )


@dataclass(frozen=True)
class Told(Generic[Sample]):
    """An outcome."""

    sample: Sample | None
    """The algorithm's own; None if it did not sample the point, or not exactly."""
    point: Vector
    loss: float


@dataclass(frozen=True)
class _Amended:
    """Stands for a sample instead of which another point was tried."""


class Generations(BaseOptimizer, Generic[Sample]):
    """Collects the losses of a generation, from which the algorithm learns at once.

    Points that were enqueued do not count into it; else a first one could be of baselines only,
    which say nothing about the distribution. The best of them, up to `INJECTED_SHARE`, take the
    places of the worst samples if they are better than these (injection, Hansen 2011, arXiv
    1110.4181). Amended points count as samples.
    """

    def __init__(self, cube: Cube, population: int) -> None:
        super().__init__(cube, population)
        self._told: list[Told[Sample]] = []
        self._injected: list[Told[Sample]] = []

    @abstractmethod
    def update(self, told: list[Told[Sample]]) -> None:
        """Learn a generation."""

    def amended(self, handle: object) -> object:
        """Return what stands for a sample instead of which another point was tried."""
        return _Amended()

    def learn(self, handle: object, point: Vector, loss: float) -> None:
        """Collect a loss; with the last one of a generation, the distribution is updated."""
        if handle is None:
            # The start is the first mean. As a sample it would be a step of no length, by which
            # steps are shortened.
            if not np.array_equal(point, self.cube.start):
                self._injected.append(Told(None, point, loss))
            return
        sample = None if isinstance(handle, _Amended) else handle
        self._told.append(Told(sample, point, loss))  # type: ignore[arg-type]
        if len(self._told) == self.population:
            generation = self.with_injected(self._told)
            self._told, self._injected = [], []
            self.update(generation)

    def with_injected(self, own: list[Told[Sample]]) -> list[Told[Sample]]:
        """Return a generation in which injected points have replaced the worst samples."""
        most = max(1, math.floor(INJECTED_SHARE * len(own)))
        best = sorted(self._injected, key=lambda told: told.loss)[:most]
        kept = sorted([*own, *best], key=lambda told: told.loss)[: len(own)]
        chosen = set(map(id, kept))
        return [told for told in (*own, *best) if id(told) in chosen]


def _key(genome: Genome) -> bytes:
    """Return a short key of a genome; the genomes of a long search would take gigabytes."""
    values = np.array(genome, float) + 0.0  # no negative zeros
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()


def default_population(genes: int) -> int:
    """Return the default population of CMA-ES for n genes: 4 + floor(3 ln n)."""
    return 4 + int(3 * math.log(max(2, genes)))
