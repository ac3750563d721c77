"""Finding where a checkpoint's tensors land in a model, by loading numbers and looking for them.

The loader is given checkpoints whose tensors hold their own number, then their own coordinates
along each axis. A probe is one line of numbers expanded to the tensor's shape, so it takes no
memory, and neither do the parameters that the loader does not assemble from several tensors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merge.architecture.loading import Loader, weights_of


@dataclass(frozen=True)
class Spot:
    """A box inside of a parameter that holds one checkpoint tensor.

    Attributes:
        parameter: name of the parameter or buffer in the model.
        start: first index of the box along every axis of the parameter.
        size: its sizes.
        axes: which axis of the tensor each axis of the box is; -1 where the box has size 1 and
            the tensor has no such axis.
    """

    parameter: str
    start: tuple[int, ...]
    size: tuple[int, ...]
    axes: tuple[int, ...]

    def lies_in(self, shape: tuple[int, ...]) -> bool:
        """Whether a parameter of this shape has room for the box."""
        ends = zip(self.start, self.size, shape, strict=False)
        return len(shape) == len(self.size) and all(a + n <= end for a, n, end in ends)

    def view(self, parameter: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return the box as a tensor of the checkpoint's shape that shares its memory."""
        box = parameter
        for axis, (start, size) in enumerate(zip(self.start, self.size, strict=True)):
            box = box.narrow(axis, start, size)
        for axis in reversed([i for i, of in enumerate(self.axes) if of < 0]):
            box = box.squeeze(axis)
        kept = [of for of in self.axes if of >= 0]
        order = [kept.index(of) for of in sorted(kept)]
        return box.permute(order).view(shape)


def find_spots(loader: Loader, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Spot]:
    """Return where tensors of these shapes land in the loader's model; unused ones have no spot.

    Raises:
        CheckpointError: they cannot be loaded, or land in a way that cannot be followed.
    """
    names = {float(number): name for number, name in enumerate(shapes, 1)}
    numbered = loader.load(
        {name: torch.tensor(number).expand(shapes[name]) for number, name in names.items()},
        torch.float32,
    )
    grids = [_Grid(name, tensor, names) for name, tensor in weights_of(numbered)]
    del numbered
    return _orient(loader, shapes, grids)


class _Grid:
    """The boxes of one numbered parameter; what holds no tensor's number is left out."""

    def __init__(self, parameter: str, tensor: Tensor, names: Mapping[float, str]) -> None:
        self.parameter = parameter
        self.boxes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        for start, size in _cells(tensor, (0,) * tensor.dim(), tuple(tensor.shape)):
            cell = _cut(tensor, start, size)
            name = names.get(float(cell.reshape(-1)[0]))
            if name is not None and name not in self.boxes and _uniform(cell):
                self.boxes[name] = (start, size)


def _cells(
    tensor: Tensor, start: tuple[int, ...], size: tuple[int, ...]
) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Yield (start, size) of the boxes that a tensor tiled by constant boxes is made of."""
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


def _orient(
    loader: Loader, shapes: Mapping[str, tuple[int, ...]], grids: Sequence[_Grid]
) -> dict[str, Spot]:
    """Find which axis of its tensor each axis of a box is, by loading coordinates."""
    placed = {name: grid for grid in grids for name in grid.boxes}
    axes = {name: [-1] * len(placed[name].boxes[name][1]) for name in placed}
    for axis in range(max((len(shape) for shape in shapes.values()), default=0)):
        probes = {name: _coordinates(shape, axis) for name, shape in shapes.items()}
        weights = dict(weights_of(loader.load(probes, torch.float32)))
        for name, grid in placed.items():
            if axis < len(shapes[name]):
                start, size = grid.boxes[name]
                cell = _cut(weights[grid.parameter], start, size)
                box_axis = _axis_of(cell, shapes[name][axis], axes[name])
                if box_axis is None:
                    raise CheckpointError(
                        f"transformers lays tensor {name!r} out in {grid.parameter!r} in a way "
                        "that cannot be followed (neither whole, stacked nor transposed)."
                    )
                axes[name][box_axis] = axis
    return {
        name: Spot(grid.parameter, *grid.boxes[name], tuple(axes[name]))
        for name, grid in placed.items()
    }


def _coordinates(shape: tuple[int, ...], axis: int) -> Tensor:
    if axis >= len(shape):
        return torch.zeros(()).expand(shape)
    line = torch.arange(shape[axis], dtype=torch.float32)
    return line.view([-1 if i == axis else 1 for i in range(len(shape))]).expand(shape)


def _axis_of(cell: Tensor, length: int, taken: list[int]) -> int | None:
    """Return the axis along which a box counts from 0 to `length` - 1."""
    for axis in range(cell.dim()):
        if taken[axis] == -1 and cell.shape[axis] == length:
            line = torch.arange(length, dtype=cell.dtype)
            line = line.view([-1 if i == axis else 1 for i in range(cell.dim())])
            corner = cell[
                tuple(slice(None) if i == axis else slice(0, 1) for i in range(cell.dim()))
            ]
            still = all(
                stride == 0 or i == axis or size == 1
                for i, (stride, size) in enumerate(zip(cell.stride(), cell.shape, strict=True))
            )
            if torch.equal(corner, line) and (still or bool((cell == line).all())):
                return axis
    return None
