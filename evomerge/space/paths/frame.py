"""What all spaces of paths have in common: their settings, and the parents as baselines.

A space of paths searches which blocks of which parents a model has, in which order, how often, and
with which scales (docs/dataflow.md).
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import replace

from evomerge.config.space import PathConfig
from evomerge.errors import ConfigError
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.paths.path import Hop, layers_of
from evomerge.space.protocol import Gene, Genome


class PathSpace(ABC):
    """A space of paths, as the section `space` of a search file describes it.

    Args:
        parents: parent -> number of its blocks.
        frame: recipe of everything except the path (host, embeddings, head, dtype, ...).
        stack: prefix of the block stack that the path takes the place of (`model.layers`).
    """

    genes: tuple[Gene, ...]
    max_depth: int
    """Largest number of blocks of a path or a parent."""

    def __init__(
        self, config: PathConfig, parents: Mapping[str, int], frame: Recipe, stack: str
    ) -> None:
        self._parents, self._names = dict(parents), tuple(parents)
        self._frame, self._stack, scales = frame, stack, config.scales
        self._bounds = (scales, scales) if isinstance(scales, float) else scales

    @abstractmethod
    def own_path(self, parent: str) -> Genome | None:
        """Return a genome of all blocks of a parent in order, without scales, if there is one."""

    def baselines(self) -> dict[str, Recipe]:
        """Return every parent as it is: its own blocks, embeddings and head."""

        def recipe(parent: str, depth: int) -> Recipe:
            end = Layer("passthrough", (Source(parent),))
            layers = {self._stack: layers_of(Hop(parent, layer) for layer in range(depth))}
            return replace(self._frame, layers=layers, options={}, embeddings=end, head=end)

        return {name: recipe(name, depth) for name, depth in self._parents.items()}

    def baseline_genomes(self) -> dict[str, list[Genome]]:
        """Return the genomes of the parents that this space contains exactly, by label."""
        ends = self._frame.embeddings, self._frame.head
        framed = [name for name, it in self.baselines().items() if (it.embeddings, it.head) == ends]
        paths = ((parent, self.own_path(parent)) for parent in framed)
        return {parent: [genome] for parent, genome in paths if genome is not None}

    def _is_unscaled(self, depth: int) -> bool:
        """Whether a path of this depth can be without scales; its first block never has one."""
        return depth == 1 or self._bounds[0] <= 1.0 <= self._bounds[1]

    def _decoded(self, path: Iterable[Hop]) -> Recipe:
        return replace(self._frame, layers={self._stack: layers_of(path)})


def scale_gene(name: str, bounds: tuple[float, float]) -> Gene:
    """Return the gene of a scale."""
    low, high = bounds
    return Gene(name, "real", low, high, start=min(max(1.0, low), high), sigma=(high - low) / 6)


def check_depth(layers: tuple[int, int | None], possible: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest and the largest number of blocks of a path, given what paths can have.

    ConfigError: no path of the space has so many.
    """
    fewest = max(layers[0], possible[0])
    most = min(possible[1] if layers[1] is None else layers[1], possible[1])
    if fewest > most:
        raise ConfigError(
            f"space.layers is {list(layers)}, but the paths of this space have {possible[0]} to "
            f"{possible[1]} blocks; choose another range."
        )
    return fewest, most
