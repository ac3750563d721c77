"""Genes, and the protocol of a search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from evomerge.recipe import Recipe

Genome: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class Gene:
    """One coordinate of a genome.

    Attributes:
        name: readable address, `layers[0:2].attention.zoo:maths.weight`.
        kind: `real` in [low, high]; `integer` in low..high; `choice` an index 0..high;
            `binary` 0 or 1.
        low: smallest value.
        high: largest value.
        start: where the search starts, in the gene's own units; between two values of a discrete
            gene for undecided.
        sigma: initial step in the gene's own units, or None for the optimizer's share of the
            range: `optimizer.sigma` x (high - low), half as much again for unordered genes.
        choices: labels of a `choice` gene.
    """

    name: str
    kind: Literal["real", "integer", "choice", "binary"]
    low: float
    high: float
    start: float
    sigma: float | None = None
    choices: tuple[str, ...] = ()


class Space(Protocol):
    """What is searched.

    Laws: every genome in range decodes; equal genomes decode to equal recipes.
    """

    @property
    def genes(self) -> Sequence[Gene]:
        """The genome's coordinates, in order."""
        ...

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe a genome stands for."""
        ...

    def baselines(self) -> dict[str, Recipe]:
        """Recipes every search scores first: each parent, and the uniform merge, by label."""
        ...

    def baseline_genomes(self) -> dict[str, Genome]:
        """Genomes that build baselines, or come nearest, by label; an optimizer tries them."""
        ...
