"""A path through the blocks of several parents, as data and as one line of text.

`A0-11 B8-15x0.9 A12-31` means: blocks 0 to 11 of parent A, 8 to 15 of B, then 12 to 31 of A; the
hidden state is multiplied by 0.9 before block 8 of B. A legend maps the letters to parents.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Self, TypeAlias

from evomerge.errors import RecipeError
from evomerge.recipe import Layer, Recipe, Source, number


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
