"""The unit cube: the one coordinate system in which optimizers see genes.

A real gene maps linearly to [0, 1]. A gene with k values (integer, choice, binary) cuts [0, 1]
into k equal cells: every point of a cell stands for its value, and the value maps to the middle.
So an optimizer of real vectors searches mixed genomes, and a binary gene is a threshold at 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.space.protocol import Gene, Genome

Vector = NDArray[np.float64]

UNORDERED_SHARE = 1.5
"""First steps of choice and binary genes, in units of `optimizer.sigma`.

They are longer because a step within a value's cell changes nothing. At sigma = 1/6 the threshold
of a binary gene lies one step from where the gene starts, and two steps from either bound: of the
settings that were tried, this one found hidden layer paths best.
"""

NEAR = 1e-6
"""Values that differ by at most this share of their gene's range count as the same."""


class Cube:
    """Maps genomes to points of the unit cube and back.

    Args:
        genes: the genome's coordinates.
        sigma: initial step of genes without their own, as a share of the range, in (0, 1].

    Attributes:
        start: where the search starts, shape (genes,), in [0, 1].
        step: initial standard deviation of every coordinate, shape (genes,), > 0.
    """

    def __init__(self, genes: Sequence[Gene], sigma: float) -> None:
        self.genes = tuple(genes)
        self.start: Vector = np.array([_position(gene, gene.start) for gene in genes])
        self.step: Vector = np.array([_step(gene, sigma) for gene in genes])

    def point(self, genome: Genome) -> Vector:
        """Return the point that a genome maps to.

        Raises:
            ValueError: the genome has not as many values as the space genes, or one out of range.
        """
        if len(genome) != len(self.genes):
            raise ValueError(f"The genome has {len(genome)} genes, the space {len(self.genes)}.")
        for gene, value in zip(self.genes, genome, strict=True):
            whole = gene.kind == "real" or value == int(value)
            if not (gene.low <= value <= gene.high and whole):
                raise ValueError(f"Gene {gene.name} is {value!r}, outside of its range.")
        return np.array([_position(*pair) for pair in zip(self.genes, genome, strict=True)])

    def genome(self, point: Vector) -> Genome:
        """Return the genome of a point; what lies outside of the cube is clipped into it."""
        return tuple(_value(gene, x) for gene, x in zip(self.genes, point.tolist(), strict=True))

    def is_near(self, genome: Genome, other: Genome) -> bool:
        """Return whether two genomes are the same up to `NEAR` in every gene."""
        triples = zip(self.genes, genome, other, strict=True)
        return all(abs(a - b) <= NEAR * (gene.high - gene.low) for gene, a, b in triples)


def levels(gene: Gene) -> int | None:
    """Return how many values a gene has, or None for a real one."""
    return None if gene.kind == "real" else round(gene.high - gene.low) + 1


def _position(gene: Gene, value: float) -> float:
    count = levels(gene)
    if count is None:
        return (value - gene.low) / (gene.high - gene.low)
    return (value - gene.low + 0.5) / count


def _value(gene: Gene, position: float) -> float:
    count = levels(gene)
    x = 0.5 if math.isnan(position) else min(1.0, max(0.0, position))
    if count is not None:
        return gene.low + min(count - 1, math.floor(x * count))
    return min(gene.high, max(gene.low, gene.low + x * (gene.high - gene.low)))


def _step(gene: Gene, sigma: float) -> float:
    count = levels(gene)
    if gene.sigma is not None:
        return gene.sigma / (gene.high - gene.low if count is None else count)
    if gene.kind in ("choice", "binary"):
        return sigma * UNORDERED_SHARE
    return sigma
