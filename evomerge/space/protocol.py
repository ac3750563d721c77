"""Genes, and the protocol of a search space."""

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Literal, Protocol, TypeAlias

from evomerge.recipe import Recipe

Genome: TypeAlias = tuple[float, ...]


@dataclass(frozen=True)
class Gene:
    """One coordinate of a genome.

    Attributes:
        name: readable address, `layers[0:2].attention.zoo:maths.weight`.
        kind: `real`: a number in [low, high]. `integer`: a whole number in [low, high].
            `choice`: an index from 0 to high. `binary`: 0 or 1.
        start: value at which the search starts; between two values of a discrete gene, the search
            starts undecided. Of a `choice` all values are equally likely at first; its start only
            stands for them where one recipe is made.
        sigma: initial step size in units of the gene. None: `optimizer.sigma` x (high - low), and
            1.5 times that for `binary` genes. Choices have none.
        choices: labels of a `choice` gene, by index.
        switch: whether it is a number of which only the sign counts: above 0 something is on.
    """

    name: str
    kind: Literal["real", "integer", "choice", "binary"]
    low: float
    high: float
    start: float
    _: KW_ONLY
    sigma: float | None = None
    choices: tuple[str, ...] = ()
    switch: bool = False


class Space(Protocol):
    """What is searched: genes, and the map from genomes to recipes.

    Laws: every genome within the ranges of the genes decodes to a recipe. Equal genomes decode to
    equal recipes.
    """

    @property
    def genes(self) -> Sequence[Gene]:
        """The genome's coordinates, in order."""

    @property
    def max_depth(self) -> int:
        """Largest number of blocks of a recipe, or of its decoder; baselines count, too."""

    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""

    def baselines(self) -> dict[str, Recipe]:
        """The recipes that every search scores first, by label: each parent, the uniform merge."""

    def baseline_genomes(self) -> Mapping[str, Sequence[Genome]]:
        """Genomes whose recipes equal the baselines or come near them, by label.

        The optimizer is told of them, so that it starts from good points. A baseline has
        several if a choice makes no difference to it: one for each value.
        """
