"""Finding where the tensors of a checkpoint go in a model, by loading known numbers.

First, each tensor is filled with a number of its own, which shows the box of a parameter that holds
the tensor. Next, for each axis, each tensor is filled with the coordinates along this axis, which
show whether axes were permuted. Tensors expanded from a line of numbers take almost no memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.loading import Loader, weights_of


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
            cell = _cut(tensor, start, size)
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
                cell = _cut(weights[location.parameter], location.start, location.size)
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
    cell = _cut(tensor, start, size)
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


def _cut(tensor: Tensor, start: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    return tensor[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]


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
