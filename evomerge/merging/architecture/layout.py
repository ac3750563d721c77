"""Where the tensors of a checkpoint lie in the model that transformers builds from them.

transformers renames, stacks, concatenates and transposes weights when it loads them, by rules that
change between versions. So loading a checkpoint of known numbers shows where each tensor goes (see
`probe`); where possible, with a model that ends after the second block of every kind, since blocks
with the same tensors are laid out alike. Then the tensors must fill every parameter exactly.
"""

import copy
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.depth import columns, count_keys, write_column
from evomerge.merging.architecture.loading import Loader, weights_of
from evomerge.merging.architecture.probe import Location, find_locations
from evomerge.models.checkpoint import Checkpoint, text_section
from evomerge.models.stacks import INDEX, Stack, find_stacks, is_other_modality

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_Kind: TypeAlias = frozenset[tuple[str, tuple[int, ...]]]
"""Names and shapes of the tensors of a block."""


class Layout(NamedTuple):
    """A model, and where the tensors of its checkpoint lie in its parameters.

    Attributes:
        module: the model in evaluation mode. All its parameters share one element of memory, until
            whoever uses it gives them memory and weights.
        locations: where each tensor lies, by its name in the checkpoint. A tensor that the model
            does not use (the copy of a tied head, an old buffer) is not listed.
    """

    module: nn.Module
    locations: Mapping[str, Location]


def layout_of(checkpoint: Checkpoint) -> Layout:
    """Return the layout of a checkpoint's model in float32; raises as `build_layout`."""
    shapes = {
        name: info.shape
        for name, info in checkpoint.tensors.items()
        if info.floating
        and not checkpoint.module_of(name)
        and not (checkpoint.tied and name == checkpoint.head)
    }
    return build_layout(checkpoint.config, shapes, {}, torch.float32)


def build_layout(
    data: Mapping[str, Any], shapes: Shapes, constants: Mapping[str, Tensor], dtype: torch.dtype
) -> Layout:
    """Build a model without weights, and find where the tensors of its checkpoint lie.

    `data` is its `config.json`, `shapes` are those of floating-point tensors of the checkpoint,
    `constants` all its other tensors, `dtype` is that of the parameters.

    Raises:
        CheckpointError: transformers has no class for the model, the checkpoint lacks weights that
            the model needs, or transformers lays tensors out in a way that `probe` cannot follow.
    """
    loader = Loader.of(data, constants)
    empty = torch.zeros((), dtype=dtype)
    module = loader.load({name: empty.expand(shape) for name, shape in shapes.items()}, dtype)
    locations: Mapping[str, Location] = {}
    if (few := first_blocks(data, shapes)) is not None:
        kept = {name: item for name, item in constants.items() if few.has(name)}
        with suppress(CheckpointError):
            locations = few.extend(find_locations(Loader.of(few.config, kept), few.shapes))
    if _uncovered(module, locations):
        locations = find_locations(loader, shapes)
    if missing := _uncovered(module, locations):
        raise CheckpointError(
            f"{type(module).__name__} needs the weight {missing!r}, which the checkpoint does not "
            "have (it would be random); the checkpoint is incomplete or of another architecture."
        )
    return Layout(module, locations)


def _uncovered(module: nn.Module, locations: Mapping[str, Location]) -> str | None:
    """Return a parameter that the tensors do not fill exactly, or None if they fill all."""
    weights = dict(weights_of(module))
    filled = dict.fromkeys(weights, 0)
    for location in locations.values():
        weight = weights.get(location.parameter)
        if weight is None or not location.lies_in(tuple(weight.shape)):
            return location.parameter
        filled[location.parameter] += prod(location.size)
    parameters = (name for name, _ in module.named_parameters())
    return next((name for name in parameters if filled[name] != weights[name].numel()), None)


class FirstBlocks(NamedTuple):
    """A shorter model, and what is needed to go back to the whole one.

    Attributes:
        config, shapes: `config.json` and the tensors' shapes of the shorter model.
        stacks: the stacks of the whole model that are shortened, by prefix.
        counts: how many blocks each of these has in the shorter model.
        kinds: the kind of every block that these have in the whole model.
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

        `CheckpointError`: two blocks of one kind are laid out differently.
        """
        result = dict(locations)
        for prefix, stack in self.stacks.items():
            count, kinds = self.counts[prefix], self.kinds[prefix]
            for layer in range(count, len(stack)):
                one, two = [i for i in range(count) if kinds[i] == kinds[layer]][:2]
                for suffix in stack.blocks[layer]:
                    first = locations.get(stack.name(one, suffix))
                    second = locations.get(stack.name(two, suffix))
                    if first is not None or second is not None:
                        name = stack.name(layer, suffix)
                        result[name] = _next(first, second, (one, two, layer), name)
        return result


def first_blocks(data: Mapping[str, Any], shapes: Shapes) -> FirstBlocks | None:
    """Return the shorter model, or None if no stack can be shortened; see `build_layout`."""
    config, stacks = copy.deepcopy(dict(data)), find_stacks(shapes)
    text = text_section(config)
    counts: dict[str, int] = {}
    kinds: dict[str, tuple[_Kind, ...]] = {}
    for prefix, stack in stacks.items():
        if is_other_modality(prefix):
            continue
        of_blocks = tuple(
            frozenset((suffix, shapes[stack.name(layer, suffix)]) for suffix in block)
            for layer, block in enumerate(stack.blocks)
        )
        count = _enough(of_blocks)
        keys = count_keys(text, prefix, len(stack), stacks)
        if count < len(stack) and keys:
            counts[prefix], kinds[prefix] = count, of_blocks
            for key, column in columns(text, len(stack)).items():
                text[key] = write_column(key, column[:count])
            text.update(dict.fromkeys(keys, count))
    if not counts:
        return None
    full = FirstBlocks(config, shapes, {name: stacks[name] for name in counts}, counts, kinds)
    return full._replace(shapes={name: item for name, item in shapes.items() if full.has(name)})


def _enough(kinds: tuple[_Kind, ...]) -> int:
    """Return how many of the first blocks include two of every kind (one, if there is only one)."""
    wanted = {kind: min(number, 2) for kind, number in Counter(kinds).items()}
    for position, kind in enumerate(kinds):
        wanted[kind] -= 1
        if all(number <= 0 for number in wanted.values()):
            return position + 1
    return len(kinds)


def _next(
    one: Location | None, two: Location | None, layers: tuple[int, int, int], name: str
) -> Location:
    """Return a tensor's location in a later block, given those in two blocks of the same kind."""
    if one is not None and two is not None:
        words = one.parameter.split("."), two.parameter.split(".")
        changed = [i for i, pair in enumerate(zip(*words, strict=False)) if pair[0] != pair[1]]
        same = one == two._replace(parameter=one.parameter) and len(words[0]) == len(words[1])
        numbers = [[word[i] for word in words] for i in changed]
        if same and numbers == [[*map(str, layers[:2])]]:
            words[0][changed[0]] = str(layers[2])
            return one._replace(parameter=".".join(words[0]))
    raise CheckpointError(
        f"transformers does not lay tensor {name!r} out as in the earlier blocks of its kind."
    )
