"""Where the tensors of a checkpoint lie in the model that transformers builds from them.

transformers renames, stacks, concatenates and transposes weights when it loads them, by rules that
change between versions. So loading a checkpoint of known numbers shows where each tensor goes;
where possible, with a model that ends after the second block of every kind, since blocks with the
same tensors are laid out alike. Then the tensors must fill every parameter exactly.

First, each tensor is filled with a number of its own, which shows the box of a parameter that holds
the tensor. Next, for each axis, each tensor is filled with the coordinates along this axis, which
show whether axes were permuted. Tensors expanded from a line of numbers take almost no memory.
"""

import copy
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from math import prod
from typing import Any, NamedTuple, TypeAlias

import torch
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.depth import columns, count_keys, write_column
from evomerge.merging.architecture.loading import Loader, weights_of
from evomerge.models.checkpoint import Checkpoint, text_section
from evomerge.models.safetensors import inside
from evomerge.models.stacks import INDEX, Stack, find_stacks, is_other_modality

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

_Kind: TypeAlias = frozenset[tuple[str, tuple[int, ...]]]
"""Names and shapes of the tensors of a block."""


class Location(NamedTuple):
    """Where one tensor of a checkpoint lies in a model: a box (sub-tensor) of a parameter.

    `start` and `size` have the first index and the size of the box along every axis of the
    parameter, `axes` the axis of the tensor that it is; -1 if the tensor has no such axis (the box
    has size 1 there).
    """

    parameter: str
    start: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[int, ...]

    @property
    def stop(self) -> tuple[int, ...]:
        """The index after the last of the box along every axis of the parameter."""
        return tuple(a + n for a, n in zip(self.start, self.size, strict=True))

    def lies_in(self, shape: tuple[int, ...]) -> bool:
        """Whether the box is inside of a parameter of this shape."""
        return len(shape) == len(self.size) and all(map(int.__le__, self.stop, shape))

    def view(self, parameter: Tensor) -> Tensor:
        """Return the box in the form of the checkpoint's tensor, in the parameter's memory."""
        box = parameter
        for axis, (start, size) in enumerate(zip(self.start, self.size, strict=True)):
            box = box.narrow(axis, start, size)
        for axis in reversed([i for i, of in enumerate(self.axes) if of < 0]):
            box = box.squeeze(axis)
        kept = [of for of in self.axes if of >= 0]
        order = [kept.index(of) for of in sorted(kept)]
        return box.permute(order)


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
            the model needs, or transformers lays tensors out in a way that
            `find_locations` cannot follow.
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


def find_locations(loader: Loader, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Location]:
    """Return where those of the named tensors that the loader's model uses lie in it.

    Raises:
        CheckpointError: transformers cannot load them, or transforms one in another way than by
            stacking, concatenating and permuting axes.
    """
    names = {float(number): name for number, name in enumerate(shapes, 1)}
    tensors = {name: torch.tensor(number).expand(shapes[name]) for number, name in names.items()}
    numbered = loader.load(tensors, torch.float32)
    locations: dict[str, Location] = {}
    for parameter, tensor in weights_of(numbered):
        for start, size in _cells(tensor, (0,) * tensor.dim(), tuple(tensor.shape)):
            cell = tensor[inside(start, size)]
            name = names.get(float(cell.reshape(-1)[0]))
            is_new = name not in locations or locations[name].parameter != parameter
            if name is not None and is_new and _uniform(cell):
                locations[name] = Location(parameter, start, size, (-1,) * tensor.dim())
    del numbered
    for axis in range(max((len(shape) for shape in shapes.values()), default=0)):
        probes = {name: _coordinates(shape, axis) for name, shape in shapes.items()}
        weights = dict(weights_of(loader.load(probes, torch.float32)))
        for name, location in locations.items():
            if axis < len(shapes[name]):
                cell = weights[location.parameter][inside(location.start, location.size)]
                box_axis = _axis_of(cell, shapes[name][axis], location.axes)
                if box_axis is None:
                    raise CheckpointError(
                        f"transformers lays tensor {name!r} out in {location.parameter!r} in a way "
                        "that is not supported (not whole, stacked, concatenated or transposed)."
                    )
                axes = (*location.axes[:box_axis], axis, *location.axes[box_axis + 1 :])
                locations[name] = location._replace(axes=axes)
    return locations


def _cells(
    tensor: Tensor, start: tuple[int, ...], size: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Divide a tensor into boxes of one number each, and yield (start, size) of each box."""
    cell = tensor[inside(start, size)]
    if not cell.numel() or not any(cell.stride()):
        yield start, size
        return
    for axis in range(cell.dim()):
        line = cell[tuple(slice(None) if i == axis else 0 for i in range(cell.dim()))]
        edges = (torch.nonzero(line[1:] != line[:-1]).flatten() + 1).tolist()
        if edges:
            for begin, end in zip([0, *edges], [*edges, size[axis]], strict=True):
                yield from _cells(
                    tensor,
                    (*start[:axis], start[axis] + begin, *start[axis + 1 :]),
                    (*size[:axis], end - begin, *size[axis + 1 :]),
                )
            return
    yield start, size


def _uniform(cell: Tensor) -> bool:
    return not any(cell.stride()) or bool((cell == cell.reshape(-1)[0]).all())


def _coordinates(shape: tuple[int, ...], axis: int) -> Tensor:
    line = _line(shape[axis], axis, len(shape)) if axis < len(shape) else torch.zeros(())
    return line.expand(shape)


def _line(length: int, axis: int, axes: int) -> Tensor:
    shape = [-1 if i == axis else 1 for i in range(axes)]
    return torch.arange(length, dtype=torch.float32).view(shape)


def _axis_of(cell: Tensor, length: int, taken: Sequence[int]) -> int | None:
    """Return the axis along which a box counts from 0 to `length` - 1, or None."""
    axes = range(cell.dim())
    for axis in axes:
        if taken[axis] == -1 and cell.shape[axis] == length:
            line = _line(length, axis, cell.dim())
            corner = cell[tuple(slice(None) if i == axis else slice(0, 1) for i in axes)]
            still = all(i == axis or cell.stride(i) == 0 or cell.shape[i] == 1 for i in axes)
            if torch.equal(corner, line) and (still or bool((cell == line).all())):
                return axis
    return None
