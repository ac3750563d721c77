"""Reading the parents' tensors: from their mapped files without copies, or changed on the way."""

import mmap
import os
import threading
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.errors import CheckpointError
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.passes import write_copy
from evomerge.merging.tensors.adapters import adapter_changes
from evomerge.merging.tensors.plan import Change, Planner, Read, SourceTensor
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import WIDTHS, TensorInfo, inside

_KINDS = {"BOOL": "b", "BF16": "u", "F16": "i", "F8_E4M3": "u", "F8_E5M2": "u"}

ARRAYS: dict[str, np.dtype[Any]] = {
    name: np.dtype(f"{_KINDS.get(name, name[0].lower())}{width}") for name, width in WIDTHS.items()
}
"""dtype as safetensors headers spell it -> dtype of the array that has a tensor's bits."""


class TensorReader:
    """Reads tensors of several parents; threads may read at the same time.

    A tensor takes three steps, each of which changes some tensors of the step before (`Change`):
    adapters add to tensors on disk; boxes of tensors are put together to one of another name or
    form; `rows` puts rows in the order of the merged vocabulary (see `matched_rows`).
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        rows: Mapping[SourceTensor, Change] | None = None,
    ) -> None:
        self.checkpoints = checkpoints
        self._changes = (adapter_changes(checkpoints), _assemblies(checkpoints), rows or {})
        self._read: Read = self._stored
        for changes in self._changes:
            self._read = _changing(changes, self._read)
        self._lock = threading.Lock()
        self._maps: dict[Path, mmap.mmap] = {}
        self._states: dict[Path, os.stat_result] = {}
        """How the mapped files were when they were mapped."""

    def read(self, source: SourceTensor) -> Array:
        """Return a tensor of a parent as an array of its bits.

        If nothing changes it, the array shares memory with the file: a write to it ends the
        process.

        Raises:
            CheckpointError: the file changed or vanished since it was opened.
        """
        return self._read(source)

    def _stored(self, source: SourceTensor) -> Array:
        checkpoint = self.checkpoints[source.parent]
        info = (checkpoint.original or checkpoint).tensors[source.name]
        if info.scale is None:
            return self._mapped(info)
        from evomerge.merging.kernels.torch_views import multiplied

        stored = self._mapped(replace(info, dtype="F8_E4M3", scale=None))
        scales = self._mapped(info.scale.info)
        return multiplied(stored, scales, info.scale.block)

    def is_copied(self, source: SourceTensor) -> bool:
        """Whether `read` returns memory of its own, not a view of a mapped file."""
        checkpoint = self.checkpoints[source.parent]
        info = (checkpoint.original or checkpoint).tensors.get(source.name)
        is_scaled = info is not None and info.scale is not None
        return is_scaled or any(source in changes for changes in self._changes)

    def release(self, source: SourceTensor) -> None:
        """Free the memory of a tensor's mapped pages, which may be in use.

        They are found again in the system's cache, or read again from disk.
        """
        info = self.checkpoints[source.parent].tensors[source.name]
        for stored in [box.info for box in info.boxes] or [info]:
            mapped = self._maps.get(stored.file)
            if mapped is not None:
                start = -(-stored.begin // mmap.PAGESIZE) * mmap.PAGESIZE
                stop = stored.end // mmap.PAGESIZE * mmap.PAGESIZE
                stop = stored.end if stored.end == len(mapped) else stop
                if stop > start:
                    mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def check_files(self) -> None:
        """Check that nobody has written to a mapped file, which takes microseconds for each.

        A read of what was cut off would end the process by the signal SIGBUS, and other weights
        would be those of a model that cannot be built again. A file that was removed, or replaced
        by another, is still there for this process.

        Raises:
            CheckpointError: a file was changed, or its disk is gone.
        """
        for file, then in self._states.items():
            try:
                now = file.stat()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise CheckpointError(
                    f"{file} cannot be read any more: {error.strerror}; see that its disk is "
                    "there, then go on with `evomerge resume`."
                ) from error
            is_equal = (now.st_size, now.st_mtime_ns) == (then.st_size, then.st_mtime_ns)
            if os.path.samestat(now, then) and not is_equal:
                raise _changed(file)

    def _mapped(self, info: TensorInfo) -> Array:
        dtype = ARRAYS[info.dtype]
        if not prod(info.shape):
            return np.empty(info.shape, dtype=dtype)
        mapped = self._map(info.file)
        if len(mapped) < info.end:
            raise _changed(info.file)
        if info.begin % dtype.itemsize:
            array = np.frombuffer(mapped[info.begin : info.end], dtype=dtype)
        else:
            array = np.frombuffer(mapped, dtype=dtype, count=prod(info.shape), offset=info.begin)
        return np.asarray(_Unlocked(array.reshape(info.shape)))

    def _map(self, file: Path) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                try:
                    with file.open("rb") as stream:
                        state = os.fstat(stream.fileno())
                        mapped = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
                except (OSError, ValueError) as error:
                    raise CheckpointError(f"{file} cannot be read: {error}.") from error
                self._maps[file], self._states[file] = mapped, state
            return self._maps[file]


def _changing(changes: Mapping[SourceTensor, Change], read: Read) -> Read:
    """Return a function that reads tensors as `read` does, and changes some of them."""

    def read_changed(source: SourceTensor) -> Array:
        change = changes.get(source)
        return read(source) if change is None else change(read)

    return read_changed


def _changed(file: Path) -> CheckpointError:
    return CheckpointError(
        f"{file} was changed after it was opened; put it back as it was, then go on with `evomerge "
        "resume`."
    )


class _Unlocked:
    """The memory of a read-only array as if it could be written to.

    numba has types of their own for read-only arrays, and would compile every loop again for them.
    """

    def __init__(self, array: Array) -> None:
        self._array = array  # keeps the memory
        data = (array.__array_interface__["data"][0], False)
        self.__array_interface__ = {**array.__array_interface__, "data": data}


def matched_rows(planner: Planner) -> dict[SourceTensor, Change]:
    """Return what puts rows of embeddings and heads in the order of a planner's vocabulary."""
    vocabulary = planner.vocabulary
    if vocabulary is None:
        return {}
    from evomerge.merging.kernels.torch_views import as_array, as_tensor

    def change(parent: str, names: Mapping[str, str], read: Read) -> Array:
        def tensor(other: str) -> Any:
            return as_tensor(read(SourceTensor(other, names[other])))

        return as_array(vocabulary.rows(parent, tensor))

    changes: dict[SourceTensor, Change] = {}
    for name in planner.host.token_tensors:
        maps = {parent: planner.fit(parent).non_layer for parent in planner.checkpoints}
        names = {parent: names[name] for parent, names in maps.items() if name in names}
        for parent, name_there in names.items():
            changes[SourceTensor(parent, name_there, name)] = partial(change, parent, names)
    return changes


def _assemblies(checkpoints: Mapping[str, Checkpoint]) -> dict[SourceTensor, Change]:
    """Return what puts the tensors together that parents do not have on disk in this form."""
    return {
        SourceTensor(reference, name): partial(_assemble, reference, info)
        for reference, checkpoint in checkpoints.items()
        if checkpoint.original is not None
        for name, info in checkpoint.tensors.items()
        if info.boxes
    }


def _assemble(parent: str, info: TensorInfo, read: Read) -> Array:
    """Build a tensor from boxes of others; it is float32 if not all have one dtype."""
    arrays = [
        _assemble(parent, box.info, read)
        if box.info.boxes
        else read(SourceTensor(parent, box.name))
        for box in info.boxes
    ]
    dtypes = {stored.dtype for stored in arrays}
    out = np.empty(info.shape, dtype=dtypes.pop() if len(dtypes) == 1 else np.float32)
    for box, stored in zip(info.boxes, arrays, strict=True):
        content = _in_order(stored, box.axes)[inside(box.start, box.size)]
        if content.dtype != out.dtype:  # an adapter has changed others
            stored, content = content, np.empty(content.shape, dtype=np.float32)
            write_copy(stored, content)
        _in_order(out, box.target_axes)[inside(box.target, box.size)] = content
    return out


def _in_order(array: Array, axes: tuple[int, ...]) -> Array:
    """Return a view whose axis i is the array's axis `axes[i]`, or a new one of size 1 for -1."""
    view = array.transpose([axis for axis in axes if axis >= 0])
    return np.expand_dims(view, tuple(i for i, axis in enumerate(axes) if axis < 0))
