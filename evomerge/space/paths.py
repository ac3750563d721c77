"""Paths through the layers of several parents, and what all spaces of paths have in common.

A space of paths searches which blocks of which parents a model has, in which order, how often, and
with which scales (docs/dataflow.md). A path is written as one line of text: `A0-11 B8-15x0.9
A12-31` means blocks 0 to 11 of parent A, 8 to 15 of B, then 12 to 31 of A; the hidden state is
multiplied by 0.9 before block 8 of B. A legend maps the letters to parents.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import AfterValidator, Field

from evomerge.config.fields import KnobRange, Section
from evomerge.config.schema import SearchConfig
from evomerge.config.space import SpaceKind
from evomerge.errors import ConfigError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source, number
from evomerge.space.baselines import frame_of
from evomerge.space.protocol import Gene, Genome, Space


@dataclass(frozen=True)
class Hop:
    """One step of a path: a block of a parent, and the scale of the hidden state that enters it."""

    parent: str
    layer: int
    scale: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", number(self.scale))

    def follows(self, other: Self) -> bool:
        """Whether this block comes right after `other` in the same parent."""
        return self.parent == other.parent and self.layer == other.layer + 1


Path: TypeAlias = tuple[Hop, ...]


def layers_of(path: Iterable[Hop]) -> tuple[Layer, ...]:
    """Return the blocks of a recipe for a path: each is the unchanged block of one parent."""
    return tuple(
        Layer("passthrough", (Source(hop.parent, hop.layer),), scale=hop.scale) for hop in path
    )


def path_of(layers: Iterable[Layer]) -> Path:
    """Return the path of a recipe's blocks, the inverse of `layers_of`; RecipeError: it is none."""
    hops = []
    for position, layer in enumerate(layers):
        source = layer.sources[0] if len(layer.sources) == 1 else Source("")
        is_plain = layer.method == "passthrough" and not (source.knobs or layer.knobs or layer.base)
        if source.layer is None or not is_plain:
            raise RecipeError(
                f"Block {position} is no block of a path: it is merged, or has knobs."
            )
        hops.append(Hop(source.parent, source.layer, layer.scale))
    return tuple(hops)


def legend_of(parents: Iterable[str]) -> dict[str, str]:
    """Return letter -> parent: A to Z in the given order, then AA, AB, ..."""
    legend: dict[str, str] = {}
    for index, parent in enumerate(dict.fromkeys(parents)):
        letters, rest = "", index + 1
        while rest:
            rest, digit = divmod(rest - 1, 26)
            letters = chr(ord("A") + digit) + letters
        legend[letters] = parent
    return legend


def format_path(path: Sequence[Hop], legend: Mapping[str, str]) -> str:
    """Return a path as one line, `A0-11 B8-15x0.9 A12-31`; scales have three significant digits."""
    letter = {parent: key for key, parent in legend.items()}
    words, start = list[str](), 0
    for stop in range(1, len(path) + 1):
        if stop < len(path) and path[stop].scale == 1.0 and path[stop].follows(path[stop - 1]):
            continue
        first, last = path[start], path[stop - 1]
        word = f"{letter[first.parent]}{first.layer}"
        word += f"-{last.layer}" if last.layer != first.layer else ""
        words.append(word + _scale_text(first.scale))
        start = stop
    return " ".join(words)


def describe(recipe: Recipe) -> str:
    """Return the path of a recipe as one line that a person can read; RecipeError: it has none.

    `A0-3 B4-5x0.9 (A = zoo:language, B = zoo:maths)`.
    """
    path = path_of(next(iter(recipe.layers.values()), ()))
    used = [hop.parent for hop in path]
    legend = legend_of([recipe.host, *used])
    notes = ", ".join(f"{key} = {parent}" for key, parent in legend.items() if parent in used)
    return f"{format_path(path, legend)} ({notes})"


def _scale_text(scale: float) -> str:
    return "" if scale == 1.0 else f"x{scale:.3g}"


def _above_zero(value: float | tuple[float, float]) -> float | tuple[float, float]:
    if (value if isinstance(value, float) else value[0]) <= 0.0:
        raise ValueError("must be a number or [low, high] above 0, for example [0.5, 1.5]")
    return value


def in_order(value: tuple[int, int | None]) -> tuple[int, int | None]:
    """Return a range [min, max]; ValueError: it is empty, or begins below 1."""
    low, high = value
    if low < 1 or (high is not None and low > high):
        raise ValueError("must be [min, max] with 1 <= min <= max")
    return value


Scales = Annotated[
    KnobRange,
    AfterValidator(_above_zero),
    Field(description="factor on the hidden state before a layer: a range, or a fixed number"),
]
Ends = Annotated[
    Literal["fixed", "free"],
    Field(description="fixed: a path begins and ends with the host's first and last layer"),
]
Layers = Annotated[
    tuple[int, int | None],
    AfterValidator(in_order),
    Field(description="[min, max] number of layers of a path; null: no limit"),
]


class OutsideConfig(Section):
    """The parents that give the embeddings and the head."""

    embeddings: str | None = None
    """parent that gives the embeddings; null: the host"""
    head: str | None = None
    """parent that gives the head; null: the host"""


class PathConfig(SpaceKind):
    """What all data-flow spaces have."""

    kind: Literal["dataflow"]
    """dataflow: a path through the parents' layers"""
    variant: str
    scales: Scales = (0.5, 1.5)
    outside: OutsideConfig | None = None
    """the parents that give embeddings and head; null: the host"""

    @property
    def givers(self) -> Mapping[str, str | None]:
        """Key -> the parent that gives config, embeddings or head; None: the usual one."""
        outside = {f"outside.{key}": name for key, name in self.outside or ()}
        return {**super().givers, **outside}

    def renamed(self, parent: Callable[[str | None], str | None]) -> Self:
        """Return the section in which parents have other names, which `parent` returns."""
        section = super().renamed(parent)
        if self.outside is None:
            return section
        outside = OutsideConfig(**{key: parent(name) for key, name in self.outside})
        return section.model_copy(update={"outside": outside})

    def make(
        self, config: SearchConfig, checkpoints: Mapping[str, Checkpoint], genes: Sequence[str]
    ) -> Space:
        """Return the space; see `SpaceKind.make`."""
        host = checkpoints[config.host]
        stack = host.decoder_stack
        if self.scales != 1.0:  # scales are folded into weights
            from evomerge.merging.architecture.folding import rules_for

            rules_for(host, stack.prefix)
        depths = {name: len(checkpoints[name].decoder_stack) for name in config.parents}
        return self.over(depths, frame_of(config, host), stack.prefix)

    def over(self, depths: Mapping[str, int], frame: Recipe, stack: str) -> PathSpace:
        """Return the space over parents with these numbers of layers; see `PathSpace`."""
        raise NotImplementedError


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
    def decode(self, genome: Genome) -> Recipe:
        """Return the recipe of a genome."""

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
