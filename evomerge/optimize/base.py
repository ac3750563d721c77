"""The base classes of optimizers: open samples, known outcomes, failures, constraints."""

from __future__ import annotations

import hashlib
import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from evomerge.optimize.cube import Cube, Vector
from evomerge.space.protocol import Genome

LARGEST = 1e18
"""Bound of losses and violations. The number of parameters of a model is a loss, too."""

BROKEN = 2e18
"""Loss of a point that hardly breaks a constraint, for optimizers that do not know constraints."""

FAILED = 1e19
"""Violation of a failure: it is worse than every point that breaks a constraint."""

SKIPPED_GENOMES = 20
"""So often in a row an algorithm may propose what was tried already; then it is tried again, since
the space may have nothing new."""

INJECTED_SHARE = 0.2
"""Largest share of a generation that were not sampled by the algorithm. They are few, since step
sizes are learned from the lengths and ranks of samples."""

REPLACED = object()
"""The sample of a point that was tried in the place of the algorithm's own."""

Sample = TypeVar("Sample")


class BaseOptimizer(ABC):
    """Implements the protocol; a subclass proposes points of the unit cube and learns losses.

    It overrides `propose`, and `learn` or, for several objectives, `learn_all`.

    A genome is tried once. If the algorithm proposes it again, it learns the known outcome at once,
    or as soon as that is told (if `learns_repeats`), and proposes the next one.
    """

    learns_repeats = True

    def __init__(self, cube: Cube, population: int, objectives: int = 1) -> None:
        self.cube = cube
        self.population, self._objectives = population, objectives
        self._open: dict[bytes, list[tuple[object, Vector]]] = {}
        """Samples and points of each genome that waits for its outcome, by key."""
        self._known: dict[bytes, tuple[tuple[float, ...], float]] = {}
        """Losses and violation of each genome that was told, by key."""

    @abstractmethod
    def propose(self) -> tuple[object, Vector]:
        """Return a new sample (the algorithm's own object, not None), and its point."""

    def learn(self, sample: object, point: Vector, loss: float) -> None:
        """Learn the loss of a point, if there is one objective.

        Args:
            sample: what `propose` returned with the point; None if the algorithm did not propose
                it; `REPLACED` if it was tried in place of a proposal.
            point: shape (genes,).
            loss: finite; lower is better. At most `LARGEST` if no constraint is broken; above that,
                from `BROKEN` on, the higher the more are broken; above these, equal, of failures.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither learn nor learn_all.")

    def learn_all(self, sample: object, point: Vector, losses: Vector, violation: float) -> None:
        """Learn the losses of a point. Without an override, `learn` gets a single one.

        Args:
            losses: shape (objectives,), at most `LARGEST`; lower is better. Those of a failure say
                nothing.
            violation: by how much constraints are broken, at most `LARGEST`; `FAILED`: a failure.
        """
        # From BROKEN to twice BROKEN. Small and large violations keep their order: a sum of both
        # would lose the digits of small ones.
        broken = BROKEN * (1 + violation / (1 + violation))
        self.learn(sample, point, float(losses[0]) if violation == 0 else broken)

    def ask(self, recorded: Genome | None = None) -> Genome:
        """Return the genome to try next; see `Optimizer`.

        If the recorded genome is nearly equal (`Cube.is_near`), the algorithm learns from its own
        sample, which is better than from a point that it did not propose.
        """
        for repeats in itertools.count():
            sample, point = self.propose()
            genome = self.cube.genome(point)
            key = _key(genome)
            is_tried = key in self._known or key in self._open
            if not is_tried or repeats == SKIPPED_GENOMES:
                break
            if key not in self._known:
                self._open[key].append((sample, point))
            elif self.learns_repeats:
                losses, violation = self._known[key]
                self.learn_all(sample, point, np.array(losses), violation)
        if recorded is not None:
            key = _key(recorded)
            if not self.cube.is_near(recorded, genome):
                sample, point = REPLACED, self.cube.point(recorded)
        self._open.setdefault(key, []).append((sample, point))
        return genome

    def tell(self, genome: Genome, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Learn the outcome of a genome; see `Optimizer`."""
        if values is not None and len(values) != self._objectives:
            raise ValueError(f"There are {len(values)} values, not {self._objectives}.")
        if values is None or not all(map(math.isfinite, (*values, violation))):
            losses, violation = np.full(self._objectives, LARGEST), FAILED
        else:
            losses = np.clip(-np.asarray(values, float), -LARGEST, LARGEST)
            violation = min(violation, LARGEST)
        key, outcome = _key(genome), (tuple(losses.tolist()), violation)
        if key in self._open:
            samples = self._open.pop(key)
        else:
            is_known = self._known.get(key) == outcome
            samples = [] if is_known else [(None, self.cube.point(genome))]
        self._known[key] = outcome
        for sample, point in samples if self.learns_repeats else samples[:1]:
            self.learn_all(sample, point, losses, violation)


@dataclass(frozen=True)
class Told(Generic[Sample]):
    """An outcome; `sample` is None if the algorithm did not sample the point, or not exactly."""

    sample: Sample | None
    point: Vector
    loss: float


class Generations(BaseOptimizer, Generic[Sample]):
    """Collects the losses of a generation (None: of 4 + floor(3 ln n), for n genes), and learns it.

    Points that it did not propose do not count: a first one could be of baselines only, which say
    nothing about the distribution. The best of them, up to `INJECTED_SHARE`, take the places of the
    worst samples if they are better (injection, Hansen 2011, arXiv 1110.4181). Points that were
    tried in place of its samples count as samples.
    """

    def __init__(self, cube: Cube, population: int | None) -> None:
        genes = max(2, len(cube.genes))
        super().__init__(cube, population or 4 + int(3 * math.log(genes)))
        self._told: list[Told[Sample]] = []
        self._injected: list[Told[Sample]] = []

    @abstractmethod
    def update(self, told: list[Told[Sample]]) -> None:
        """Learn a generation."""

    def learn(self, sample: object, point: Vector, loss: float) -> None:
        """Collect a loss; with the last one of a generation, the distribution is updated.

        A generation of equal losses says nothing, and would move the distribution at random.
        """
        if sample is None:
            # The start is the first mean. As a sample it would be a step of no length, by which
            # steps are shortened.
            if not np.array_equal(point, self.cube.start):
                self._injected.append(Told(None, point, loss))
            return
        own = None if sample is REPLACED else sample
        self._told.append(Told(own, point, loss))  # type: ignore[arg-type]
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
