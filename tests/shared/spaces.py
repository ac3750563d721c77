"""Search spaces for tests, with keys of the section `space` by name, and paths as text."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter

from evomerge.config.space import SpaceConfig
from evomerge.merging.methods import get_method
from evomerge.merging.methods.method import Method
from evomerge.recipe import Layer, Recipe
from evomerge.space.layer_genes import BlockStack
from evomerge.space.parameters import ParametersConfig, ParameterSpace
from evomerge.space.paths import Hop, Path
from evomerge.space.protocol import Space

STACK = "model.layers"
_NOTHING = Layer("", ())
_SPACE: TypeAdapter[Any] = TypeAdapter(SpaceConfig)


def parameters(
    methods: Sequence[str | Method],
    parents: Sequence[str] = ("a", "b"),
    base: str | None = "base",
    layers: int = 4,
    filters: Mapping[str, Sequence[str]] | None = None,
    frame: Mapping[str, Any] | None = None,
    modalities: Mapping[str, Sequence[str]] | None = None,
    stacks: Sequence[BlockStack] | None = None,
    **keys: Any,
) -> ParameterSpace:
    """Return a parameter space; its host is the base, or the first parent."""
    return ParameterSpace(
        ParametersConfig(**keys),
        [item if isinstance(item, Method) else get_method(item) for item in methods],
        parents=parents,
        base=base,
        frame=Recipe(base or parents[0], {}, _NOTHING, _NOTHING, **(frame or {})),
        stacks=stacks or [BlockStack(STACK, layers, filters or {})],
        modalities=modalities,
    )


def paths(variant: str, depths: Mapping[str, int], frame: Recipe, **keys: Any) -> Space:
    """Return a data-flow space."""
    given = {"kind": "dataflow", "variant": variant, **keys}
    return _SPACE.validate_python(given).over(depths, frame, STACK)


WORD = re.compile(r"([A-Z]+)(\d+)(?:-(\d+))?(?:x(\S+))?")


def parse_path(text: str, legend: Mapping[str, str]) -> Path:
    """Return the hops of `A0-11 B8-15x0.9`; a scale is that of the first block of its word."""
    hops: list[Hop] = []
    for word in text.split():
        match = WORD.fullmatch(word)
        assert match is not None, f"{word!r} is no word of a path"
        letter, first, last, scale = match.groups()
        hops.append(Hop(legend[letter], int(first), float(scale or 1)))
        hops += [Hop(legend[letter], at) for at in range(int(first) + 1, int(last or first) + 1)]
    return tuple(hops)
