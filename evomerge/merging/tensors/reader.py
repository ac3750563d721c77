"""Reading the parents' tensors from their mapped files, without copies."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evomerge.errors import CheckpointError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import load
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import WIDTHS, TensorInfo

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = {"BOOL": "b", "BF16": "u", "F16": "i", "F8_E4M3": "u", "F8_E5M2": "u"}

DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(f"{_KINDS.get(name, name[0].lower())}{width}") for name, width in WIDTHS.items()
}
"""dtype as safetensors headers spell it -> dtype of the array that has a tensor's bits."""

Patch: TypeAlias = "Callable[[str, Tensor], Tensor]"
"""Takes the name on disk of a parent's tensor and the tensor. Returns the tensor unchanged, or a
new one (which may be float32). It must not write to the tensor, which is mapped from a file."""


class TensorReader:
    """Reads tensors of several parents; threads may read at the same time.

    `patches` are by reference, for the parents whose tensors are changed as they are read.
    """

    def __init__(
        self, checkpoints: Mapping[str, Checkpoint], patches: Mapping[str, Patch] | None = None
    ) -> None:
        self.checkpoints = checkpoints
        self.patches = dict(patches or {})
        self._lock = threading.Lock()
        self._maps: dict[Path, mmap.mmap] = {}

    def read(self, source: SourceTensor) -> Array:
        """Return a tensor of a parent as an array of its bits, with its patch if there is one.

        Without a patch, the array shares memory with the file: a write to it ends the process.

        Raises:
            CheckpointError: the file changed or vanished since it was opened.
        """
        info = self.checkpoints[source.parent].tensors[source.name]
        return self._patched(info, source.name, self.patches.get(source.parent))

    def release(self, source: SourceTensor) -> None:
        """Free the memory of a tensor's mapped pages, which may be in use.

        They are found again in the system's cache, or read again from disk.
        """
        info = self.checkpoints[source.parent].tensors[source.name]
        for stored in [part.info for part in info.parts] or [info]:
            mapped = self._maps.get(stored.file)
            if mapped is not None:
                start = -(-stored.begin // mmap.PAGESIZE) * mmap.PAGESIZE
                stop = stored.end // mmap.PAGESIZE * mmap.PAGESIZE
                stop = stored.end if stored.end == len(mapped) else stop
                if stop > start:
                    mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def _patched(self, info: TensorInfo, name: str, patch: Patch | None) -> Array:
        if info.parts:
            return self._assemble(info, patch)
        array = self._stored(info)
        if patch is None:
            return array
        from evomerge.merging.kernels.torch_views import as_array, as_tensor

        return as_array(patch(name, as_tensor(array, info.dtype)))

    def _stored(self, info: TensorInfo) -> Array:
        dtype = DTYPES[info.dtype]
        if not prod(info.shape):
            return np.empty(info.shape, dtype=dtype)
        mapped = self._map(info.file)
        if info.begin % dtype.itemsize:
            array = np.frombuffer(mapped[info.begin : info.end], dtype=dtype)
        else:
            array = np.frombuffer(mapped, dtype=dtype, count=prod(info.shape), offset=info.begin)
        return np.asarray(_Unlocked(array.reshape(info.shape)))

    def _assemble(self, info: TensorInfo, patch: Patch | None) -> Array:
        """Build a tensor from boxes of stored tensors."""
        exact = patch is not None and info.floating
        out = np.empty(info.shape, dtype=np.float32 if exact else DTYPES[info.dtype])
        for part in info.parts:
            stored = _in_order(self._patched(part.info, part.name, patch), part.axes)
            box = _cut(stored, part.start, part.size)
            target = _cut(_in_order(out, part.target_axes), part.target, part.size)
            if exact:
                stored = np.empty(box.shape, dtype=np.float32)
                load(box.reshape(-1), stored.reshape(-1))
                box = stored
            target[...] = box
        return out

    def _map(self, file: Path) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                try:
                    with file.open("rb") as stream:
                        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise CheckpointError(f"{file} cannot be read: {error}.") from error
                self._maps[file] = mapped
            return self._maps[file]


class _Unlocked:
    """The memory of a read-only array as if it could be written to.

    numba has types of their own for read-only arrays, and would compile every loop again for them.
    """

    def __init__(self, array: Array) -> None:
        self._array = array  # keeps the memory
        data = (array.__array_interface__["data"][0], False)
        self.__array_interface__ = {**array.__array_interface__, "data": data}


def _in_order(array: Array, axes: tuple[int, ...]) -> Array:
    """Return a view whose axis i is the array's axis `axes[i]`, or a new one of size 1 for -1."""
    view = array.transpose([axis for axis in axes if axis >= 0])
    return np.expand_dims(view, tuple(place for place, axis in enumerate(axes) if axis < 0))


def _cut(array: Array, start: tuple[int, ...], size: tuple[int, ...]) -> Array:
    return array[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
