"""A shorter model, made of the first blocks, that shows how transformers lays out all blocks.

Blocks with the same tensors are laid out in the same way. So it is enough to build a model that
ends after the second block of every kind, which takes a fraction of the memory. These must be the
first blocks, because configs count positions (for example, "the first n blocks are dense").
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.depth import count_keys
from evomerge.merging.architecture.layer_settings import columns, write_column
from evomerge.merging.architecture.probe import Location
from evomerge.models.stacks import INDEX, Stack, find_stacks, is_other_modality

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
_Kind: TypeAlias = frozenset[tuple[str, tuple[int, ...]]]


@dataclass(frozen=True)
class FirstBlocks:
    """A shorter model, and what is needed to go back to the whole one.

    Attributes:
        config: `config.json` of the shorter model.
        shapes: its tensors' shapes, by name.
        stacks: the stacks of the whole model that are shortened, by prefix.
        counts: how many blocks each of these has in the shorter model.
        kinds: the kind (names and shapes of tensors) of every block that these have in the whole
            model.
    """

    config: Mapping[str, Any]
    shapes: Shapes
    stacks: Mapping[str, Stack]
    counts: Mapping[str, int]
    kinds: Mapping[str, tuple[_Kind, ...]]

    def has(self, name: str) -> bool:
        """Whether a tensor of the whole model is in the shorter model too."""
        for prefix, count in self.counts.items():
            if name.startswith(f"{prefix}."):
                index = name[len(prefix) + 1 :].partition(".")[0]
                return not INDEX.fullmatch(index) or int(index) < count
        return True

    def extend(self, locations: Mapping[str, Location]) -> dict[str, Location]:
        """Return where the tensors of the whole model lie, given this for the shorter model.

        Raises:
            CheckpointError: two blocks of one kind are laid out differently.
        """
        result = dict(locations)
        for prefix, stack in self.stacks.items():
            count, kinds = self.counts[prefix], self.kinds[prefix]
            for layer in range(count, len(stack)):
                one, two = [i for i in range(count) if kinds[i] == kinds[layer]][:2]
                for rest in stack.blocks[layer]:
                    pair = (
                        locations.get(stack.name(one, rest)),
                        locations.get(stack.name(two, rest)),
                    )
                    if pair == (None, None):
                        continue
                    name = stack.name(layer, rest)
                    result[name] = _next(pair[0], pair[1], (one, two, layer), name)
        return result


def first_blocks(data: Mapping[str, Any], shapes: Shapes) -> FirstBlocks | None:
    """Return the shorter model, or None if no stack can be shortened.

    Args:
        data: `config.json` of the whole model.
        shapes: shape of every floating-point tensor of its checkpoint, by name.
    """
    config = copy.deepcopy(dict(data))
    stacks = find_stacks(shapes)
    counts: dict[str, int] = {}
    kinds: dict[str, tuple[_Kind, ...]] = {}
    for prefix, stack in stacks.items():
        found = tuple(_kinds(stack, shapes))
        count = _enough(found)
        section = config if is_other_modality(prefix) else _text(config)
        keys = count_keys(section, prefix, len(stack), stacks)
        if count < len(stack) and keys and not is_other_modality(prefix):
            counts[prefix], kinds[prefix] = count, found
            _shorten(section, keys, len(stack), count)
    if not counts:
        return None
    whole = FirstBlocks(config, shapes, {name: stacks[name] for name in counts}, counts, kinds)
    return replace(whole, shapes={name: item for name, item in shapes.items() if whole.has(name)})


def _kinds(stack: Stack, shapes: Shapes) -> Iterator[_Kind]:
    for layer, block in enumerate(stack.blocks):
        yield frozenset((rest, shapes[stack.name(layer, rest)]) for rest in block)


def _enough(kinds: tuple[_Kind, ...]) -> int:
    """Return how many of the first blocks include two of every kind (one, if there is only one)."""
    wanted = {kind: min(number, 2) for kind, number in Counter(kinds).items()}
    for position, kind in enumerate(kinds):
        wanted[kind] -= 1
        if all(number <= 0 for number in wanted.values()):
            return position + 1
    return len(kinds)


def _shorten(section: dict[str, Any], keys: list[str], old: int, new: int) -> None:
    for key, column in columns(section, old).items():
        section[key] = write_column(key, column[:new])
    for key in keys:
        section[key] = new


def _text(config: dict[str, Any]) -> dict[str, Any]:
    for key in ("text_config", "llm_config", "language_config", "decoder"):
        if isinstance(config.get(key), dict):
            return config[key]  # type: ignore[no-any-return]
    return config


def _next(
    one: Location | None, two: Location | None, layers: tuple[int, int, int], name: str
) -> Location:
    """Return a tensor's location in a later block, given those in two blocks of the same kind."""
    if one is not None and two is not None:
        words = one.parameter.split("."), two.parameter.split(".")
        changed = [i for i, pair in enumerate(zip(*words, strict=False)) if pair[0] != pair[1]]
        same = one == replace(two, parameter=one.parameter) and len(words[0]) == len(words[1])
        if same and [(words[0][i], words[1][i]) for i in changed] == [
            (str(layers[0]), str(layers[1]))
        ]:
            words[0][changed[0]] = str(layers[2])
            return replace(one, parameter=".".join(words[0]))
    raise CheckpointError(
        f"transformers does not lay tensor {name!r} out as in the earlier blocks of its kind."
    )
