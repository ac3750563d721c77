"""Where every tensor of a checkpoint lies in the model that transformers builds from it.

transformers renames, stacks, concatenates and transposes weights as it loads them (the experts of
a mixture become one 3-dimensional parameter, for example), differently from version to version.
None of that is written down here. The loader is asked instead: it loads checkpoints whose tensors
hold their own number, then their own coordinates, and where these turn up is where the tensors
lie. A probe is one number expanded to the tensor's shape, so it takes no memory, and neither do
the parameters that the loader does not assemble from several tensors.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from evomerge.errors import CheckpointError


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


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters are placeholders, and where the checkpoint's tensors belong.

    Attributes:
        module: the model in evaluation mode. Parameters that the checkpoint fills are
            placeholders without memory of their own; buffers are real.
        spots: by tensor name. A tensor that the model does not use (a tied head's copy, an old
            buffer) has none.
    """

    module: nn.Module
    spots: Mapping[str, Spot]


def build(
    data: Mapping[str, Any],
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Skeleton:
    """Build a model and find where its checkpoint's tensors lie.

    Args:
        data: `config.json` of the model.
        folder: where its generation config is, if it has one.
        shapes: shape of every floating tensor of the checkpoint, by name.
        constants: every other tensor.
        dtype: dtype that the model is loaded in.

    Raises:
        CheckpointError: transformers has no class for it, the model needs weights that the
            checkpoint does not have, or lays them out in a way that cannot be followed.
    """
    config = transformers_config(data)
    loader = _Loader(config, model_class(config), constants)
    names = {float(number): name for number, name in enumerate(shapes, 1)}
    numbered = loader.load(
        {name: torch.tensor(number).expand(shapes[name]) for number, name in names.items()},
        torch.float32,
    )
    grids = [_Grid(name, tensor, names) for name, tensor in _weights(numbered)]
    _check_complete(numbered, {grid.parameter: grid for grid in grids})
    del numbered
    spots = _orient(loader, shapes, grids)
    empty = torch.zeros((), dtype=dtype)
    module = loader.load({name: empty.expand(shape) for name, shape in shapes.items()}, dtype)
    if (folder / "generation_config.json").is_file():
        generation = transformers.GenerationConfig.from_pretrained(folder)
        module.generation_config = generation  # type: ignore[assignment]
    return Skeleton(module, spots)


def transformers_config(data: Mapping[str, Any]) -> Any:
    """Return the config object that transformers makes of `config.json`.

    Raises:
        CheckpointError: the installed transformers does not know the model type.
    """
    kind = str(data.get("model_type"))
    if kind not in transformers.CONFIG_MAPPING:
        raise CheckpointError(
            f"The installed transformers {transformers.__version__} does not know the model_type "
            f"{kind!r}; install a version that does. Code that comes with a model is not run."
        )
    try:
        return transformers.CONFIG_MAPPING[kind].from_dict(dict(data))
    except Exception as error:  # config classes validate with many kinds of exception
        raise CheckpointError(f"config.json is refused by transformers: {_line(error)}") from error


def model_class(config: Any) -> Any:
    """Return the transformers class of a config's architecture (a causal LM where none is named).

    Raises:
        CheckpointError: transformers has no such class (custom code is never run).
    """
    names = getattr(config, "architectures", None) or []
    for name in names:
        if name.isidentifier() and hasattr(transformers, name):
            return getattr(transformers, name)
    if not names and type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    raise CheckpointError(
        f"The installed transformers {transformers.__version__} has no model class for "
        f"architectures {names} (model_type {getattr(config, 'model_type', None)!r}); install a "
        "version that has it. Code that comes with a model is not run."
    )


@dataclass(frozen=True)
class _Loader:
    """Loads a model from tensors in memory, the way `from_pretrained` loads files."""

    config: Any
    kind: Any
    constants: Mapping[str, Tensor]

    def load(self, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> nn.Module:
        state = {**self.constants, **tensors}
        try:
            with quiet():
                module: nn.Module = self.kind.from_pretrained(
                    None, config=self.config, state_dict=state, dtype=dtype
                )
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(
                f"transformers cannot build {self.kind.__name__} from this checkpoint: "
                f"{_line(error)}"
            ) from error
        return module.eval()


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class _Grid:
    """The boxes of one numbered parameter."""

    def __init__(self, parameter: str, tensor: Tensor, names: Mapping[float, str]) -> None:
        self.parameter = parameter
        self.boxes: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.complete = True
        for start, size in _cells(tensor, (0,) * tensor.dim(), tuple(tensor.shape)):
            cell = _cut(tensor, start, size)
            name = names.get(float(cell.reshape(-1)[0]))
            if name is None or name in self.boxes or not _uniform(cell):
                self.complete = False
            else:
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
    loader: _Loader, shapes: Mapping[str, tuple[int, ...]], grids: Sequence[_Grid]
) -> dict[str, Spot]:
    """Find which axis of its tensor each axis of a box is, by loading coordinates."""
    placed = {name: grid for grid in grids for name in grid.boxes}
    axes = {name: [-1] * len(placed[name].boxes[name][1]) for name in placed}
    for axis in range(max((len(shape) for shape in shapes.values()), default=0)):
        probes = {name: _coordinates(shape, axis) for name, shape in shapes.items()}
        weights = dict(_weights(loader.load(probes, torch.float32)))
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


def _check_complete(module: nn.Module, grids: Mapping[str, _Grid]) -> None:
    for name, _ in module.named_parameters():
        if not grids[name].complete:
            raise CheckpointError(
                f"{type(module).__name__} needs the weight {name!r}, which the checkpoint does not "
                "have (it would be random); it is incomplete or of another architecture."
            )


def _weights(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and persistent buffers by name, tied ones once."""
    stored = set(module.state_dict())
    for name, parameter in module.named_parameters():
        yield name, parameter.detach()
    for name, buffer in module.named_buffers():
        if name in stored and buffer.is_floating_point():
            yield name, buffer


@contextmanager
def quiet() -> Iterator[None]:
    """Silence progress bars and reports; what matters of them is checked here."""
    from transformers.utils import logging as reports

    level, bars = reports.get_verbosity(), reports.is_progress_bar_enabled()
    reports.set_verbosity(logging.CRITICAL)
    reports.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        reports.set_verbosity(level)
        if bars:
            reports.enable_progress_bar()  # type: ignore[no-untyped-call]
