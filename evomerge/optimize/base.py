"""What optimizers have in common: the unit cube, open samples, known outcomes, generations.

A real gene maps linearly to [0, 1]. An integer or binary gene with k values divides [0, 1] into k
equal cells: every point of a cell maps to its value, and the value to the middle of its cell.

The values of a choice have no order, so a choice of three or more has a coordinate for each value,
and the largest decides (random keys, Bean 1994). At the start all are equal: the search begins
undecided, and the place of a value in the list makes no difference.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from evomerge.space.protocol import Gene, Genome

Vector = NDArray[np.float64]

UNORDERED_SHARE = 1.5
"""Initial steps of binary genes and choices of two, in units of `optimizer.sigma`.

A step within a cell does not change the value. With sigma = 1/6, a step is 1/4, the distance from
the middle of a cell to the threshold; so known best paths through layers were found most often.
"""

Choices: TypeAlias = Literal["keys", "cells", "quantiles"]
"""How a choice of three or more values is seen. `keys`: a coordinate for each value; the largest
decides. `cells`: one coordinate of equal cells, for draws from the whole cube. `quantiles`: one
coordinate, cut so that a normal distribution around the start hits each cell equally often."""

KEY_STEP = 1 / 12
"""Initial steps of keys and quantiles: far from the borders, where keys would become equal."""

_NORMAL = NormalDist(0.5, KEY_STEP)

NEAR = 1e-6
"""Two values of a gene count as equal if they differ by at most this share of its range."""


class Cube:
    """Maps genomes to points of the unit cube and back; `sigma`: see `Setting`.

    Attributes:
        levels: number of values of each gene; None for a real one.
        start: the point where the search starts, in [0, 1]; shape (dimensions,), as all arrays.
        step: initial standard deviation of every coordinate, > 0.
        low: smallest useful value: 0, or minus infinity for a key.
        high: largest useful value: 1, or infinity for a key.
    """

    def __init__(self, genes: Sequence[Gene], sigma: float, choices: Choices = "keys") -> None:
        self.genes = tuple(genes)
        unordered = [gene.kind == "choice" and gene.high > 1 for gene in genes]
        with_keys = [many and choices == "keys" for many in unordered]
        self.levels = [levels(gene) for gene in genes]
        counts = [(k or 1) if keys else 1 for k, keys in zip(self.levels, with_keys, strict=True)]
        firsts = (np.cumsum(counts) - counts).tolist()
        self._axes = list(zip(genes, self.levels, counts, firsts, strict=True))
        """Each gene, its number of values, its number of coordinates, and the first of these."""
        self._cells = np.repeat([k or 0 for k in self.levels], counts)
        self._quantiles = np.flatnonzero(unordered).tolist() if choices == "quantiles" else []
        steps = [
            KEY_STEP if many and choices != "cells" else _step(gene, sigma)
            for gene, many in zip(genes, unordered, strict=True)
        ]
        starts = [0.5 if it.kind == "choice" else _position(it, it.start) for it in genes]
        self.start: Vector = np.repeat(starts, counts)
        self.step: Vector = np.repeat(steps, counts)
        is_key = np.repeat(with_keys, counts)
        self.low: Vector = np.where(is_key, -math.inf, 0.0)
        self.high: Vector = np.where(is_key, math.inf, 1.0)

    def decided(self, random: np.random.RandomState) -> Vector:
        """Return the start, with a random value of every undecided gene."""
        between = np.isinf(self.high) | ((self._cells > 0) & (self.start * self._cells % 1 == 0))
        steps = np.where(between, NEAR * self.step, 0.0)
        steps[self._quantiles] = KEY_STEP
        moved: Vector = self.start + steps * random.standard_normal(len(self.start))
        return moved

    def point(self, genome: Genome) -> Vector:
        """Return the point that a genome maps to; ValueError: it does not belong to the space.

        The keys of a choice are the mean of those, in a first sample, of which this value's is the
        largest: it wins clearly, and small steps can still make another one win.
        """
        if len(genome) != len(self.genes):
            raise ValueError(f"The genome has {len(genome)} genes, the space {len(self.genes)}.")
        coordinates: list[float] = []
        for (gene, _, count, _), value in zip(self._axes, genome, strict=True):
            in_range = gene.low <= value <= gene.high
            if not in_range or (gene.kind != "real" and value != int(value)):
                raise ValueError(f"Gene {gene.name} is {value!r}, which its range does not have.")
            if count == 1:
                coordinates.append(_position(gene, value))
            else:
                lost, won = _lost_and_won(count)
                coordinates += [won if value == gene.low + k else lost for k in range(count)]
        point = np.array(coordinates)
        for index in self._quantiles:
            point[index] = _NORMAL.inv_cdf(point[index])
        return point

    def genome(self, point: Vector) -> Genome:
        """Return the genome of a point; coordinates outside of [0, 1] are clipped."""
        values = point.tolist()
        for index in self._quantiles:
            values[index] = _NORMAL.cdf(values[index])
        return tuple(
            _value(gene, cells, values[first])
            if count == 1
            else gene.low + int(np.argmax(point[first : first + count]))
            for gene, cells, count, first in self._axes
        )

    def is_near(self, genome: Genome, other: Genome) -> bool:
        """Return whether two genomes are nearly equal: every gene within `NEAR` of its range."""
        triples = zip(self.genes, genome, other, strict=True)
        return all(abs(a - b) <= NEAR * (gene.high - gene.low) for gene, a, b in triples)


def levels(gene: Gene) -> int | None:
    """Return the number of values of a gene, or None for a real gene."""
    return None if gene.kind == "real" else round(gene.high - gene.low) + 1


@cache
def _lost_and_won(count: int) -> tuple[float, float]:
    """Return the mean keys of the values that lose, and of the one that wins, in a first sample.

    The largest of k standard normal numbers has the mean m(k), the integral of
    k x phi(x) Phi(x)^(k - 1). As their sum has the mean 0, each other one has -m(k) / (k - 1).
    """
    x = np.linspace(-10.0, 10.0, 20001)
    phi = np.exp(-x * x / 2) / math.sqrt(2 * math.pi)
    below = np.cumsum(phi) * (x[1] - x[0])
    largest = float((count * x * phi * below ** (count - 1)).sum() * (x[1] - x[0]))
    return 0.5 - KEY_STEP * largest / (count - 1), 0.5 + KEY_STEP * largest


def _position(gene: Gene, value: float) -> float:
    count = levels(gene)
    if count is None:
        return (value - gene.low) / (gene.high - gene.low)
    return (value - gene.low + 0.5) / count


def _value(gene: Gene, cells: int | None, position: float) -> float:
    x = 0.5 if math.isnan(position) else min(1.0, max(0.0, position))
    if cells is not None:
        return gene.low + min(cells - 1, math.floor(x * cells))
    return min(gene.high, max(gene.low, gene.low + x * (gene.high - gene.low)))


def _step(gene: Gene, sigma: float) -> float:
    count = levels(gene)
    if gene.sigma is not None:
        return gene.sigma / (gene.high - gene.low if count is None else count)
    if gene.kind in ("choice", "binary"):
        return sigma * UNORDERED_SHARE
    return sigma


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


def losses_of(
    values: Sequence[float] | None, violation: float, count: int
) -> tuple[tuple[float, ...], float]:
    """Return losses and violation of what `tell` gets; ValueError: these are not `count` values."""
    if values is not None and len(values) != count:
        raise ValueError(f"There are {len(values)} values, not {count}.")
    if values is None or not all(map(math.isfinite, (*values, violation))):
        return (LARGEST,) * count, FAILED
    return tuple(min(LARGEST, max(-LARGEST, -float(x))) for x in values), min(violation, LARGEST)


class BaseOptimizer(ABC):
    """Implements the protocol; a subclass proposes points of the unit cube and learns losses.

    It overrides `propose`, and `learn` or, for several objectives, `learn_all`.

    A genome is tried once. If the algorithm proposes it again, it learns the known outcome at once,
    or as soon as that is told (if `learns_repeats`), and proposes the next one. With fresh
    documents (`is_fresh`) it is tried again, since it is scored on others.
    """

    learns_repeats = True

    def __init__(
        self, cube: Cube, population: int, objectives: int = 1, *, is_fresh: bool = False
    ) -> None:
        self.cube, self.is_fresh = cube, is_fresh
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

        `recorded`: only subclasses that were written for an earlier release give it.
        """
        if recorded is not None:
            return self.replay(recorded)
        genome, sample, point = self._propose_new()
        self._open.setdefault(_key(genome), []).append((sample, point))
        return genome

    def replay(self, genome: Genome) -> Genome:
        """Repeat an `ask` that returned this genome; see `Optimizer`.

        If it is nearly equal (`Cube.is_near`) to what is computed here, the algorithm learns from
        its own sample, which is better than from a point that it did not propose.
        """
        computed, sample, point = self._propose_new()
        if not self.cube.is_near(genome, computed):
            sample, point = REPLACED, self.cube.point(genome)
        self._open.setdefault(_key(genome), []).append((sample, point))
        return computed

    def _propose_new(self) -> tuple[Genome, object, Vector]:
        """Return a genome that was not tried, with its sample and point."""
        repeats = 0
        while True:
            sample, point = self.propose()
            genome = self.cube.genome(point)
            key = _key(genome)
            is_tried = not self.is_fresh and (key in self._known or key in self._open)
            if not is_tried or repeats == SKIPPED_GENOMES:
                return genome, sample, point
            repeats += 1
            if key not in self._known:
                self._open[key].append((sample, point))
            elif self.learns_repeats:
                losses, violation = self._known[key]
                self.learn_all(sample, point, np.array(losses), violation)

    def tell(self, genome: Genome, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Learn the outcome of a genome; see `Optimizer`."""
        key, outcome = _key(genome), losses_of(values, violation, self._objectives)
        samples = self._open.pop(key, None)
        if samples is None:
            samples = [] if self._known.get(key) == outcome else [(None, self.cube.point(genome))]
        self._known[key] = outcome
        for sample, point in samples if self.learns_repeats else samples[:1]:
            self.learn_all(sample, point, np.array(outcome[0]), outcome[1])


def _key(genome: Genome) -> bytes:
    """Return a short key of a genome; the genomes of a long search would take gigabytes."""
    values = np.array(genome, float) + 0.0  # no negative zeros
    return hashlib.blake2b(values.tobytes(), digest_size=16).digest()
