"""The unit cube: the coordinate system in which all optimizers work.

A real gene maps linearly to [0, 1]. A gene with k values (integer, choice, binary) divides [0, 1]
into k equal cells, one for each value: every point of a cell maps to its value, and the value maps
to the middle of its cell. In this way, an optimizer of real vectors can search genomes with genes
of all kinds. The cells of a binary gene meet at 0.5.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from evomerge.space.protocol import Gene, Genome

Vector = NDArray[np.float64]

UNORDERED_SHARE = 1.5
"""Initial steps of choice and binary genes, in units of `optimizer.sigma`.

They are longer than those of other genes, because a step within a cell does not change the value.
With sigma = 1/6, a step is 1/4. This is the distance from the middle of a cell of a binary gene to
the threshold. In tests with known best paths through layers, this value found the paths most often.
"""

NEAR = 1e-6
"""Two values of a gene count as equal if they differ by at most this share of its range."""


class Cube:
    """Maps genomes to points of the unit cube and back.

    Args:
        genes: the genes of the genome, in order.
        sigma: initial step of genes without a step of their own, as a share of the range, in
            (0, 1].

    Attributes:
        start: the point where the search starts, shape (genes,), in [0, 1].
        step: initial standard deviation of every coordinate, shape (genes,), > 0.
    """

    def __init__(self, genes: Sequence[Gene], sigma: float) -> None:
        self.genes = tuple(genes)
        self.start: Vector = np.array([_position(gene, gene.start) for gene in genes])
        self.step: Vector = np.array([_step(gene, sigma) for gene in genes])

    def point(self, genome: Genome) -> Vector:
        """Return the point that a genome maps to.

        Raises:
            ValueError: the number of values differs from the number of genes, or a value is out of
                range.
        """
        if len(genome) != len(self.genes):
            raise ValueError(
                f"The genome has {len(genome)} genes, but the space has {len(self.genes)}."
            )
        for gene, value in zip(self.genes, genome, strict=True):
            whole = gene.kind == "real" or value == int(value)
            if not (gene.low <= value <= gene.high and whole):
                raise ValueError(
                    f"Gene {gene.name} is {value!r}, outside of its range {gene.low:g} to "
                    f"{gene.high:g}, or not a whole number."
                )
        return np.array([_position(*pair) for pair in zip(self.genes, genome, strict=True)])

    def genome(self, point: Vector) -> Genome:
        """Return the genome of a point; coordinates outside of [0, 1] are clipped."""
        return tuple(_value(gene, x) for gene, x in zip(self.genes, point.tolist(), strict=True))

    def is_near(self, genome: Genome, other: Genome) -> bool:
        """Return whether two genomes are nearly equal: every gene within `NEAR` of its range."""
        triples = zip(self.genes, genome, other, strict=True)
        return all(abs(a - b) <= NEAR * (gene.high - gene.low) for gene, a, b in triples)


def levels(gene: Gene) -> int | None:
    """Return the number of values of a gene, or None for a real gene."""
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
