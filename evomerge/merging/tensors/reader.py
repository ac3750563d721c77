"""Reading the parents' tensors from their mapped files, without copies.

A tensor may be changed before it is merged. A `Patch` changes the tensors of one parent as they are
read (it adds the update of a LoRA adapter). `TokenRows` puts the rows of embeddings and heads into
the order of the merged vocabulary.
"""

from __future__ import annotations

import mmap
import threading
import warnings
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.merging.tensors.pages import Pages, map_file
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tokenizers.protocol import Vocabulary
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.grams import Gram
from evomerge.models.safetensors import TensorInfo

DTYPES = {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I16": torch.int16,
    "U16": torch.uint16,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I32": torch.int32,
    "U32": torch.uint32,
    "F32": torch.float32,
    "I64": torch.int64,
    "U64": torch.uint64,
    "F64": torch.float64,
}

Patch: TypeAlias = Callable[[str, Tensor], Tensor]
"""Takes the name on disk of a parent's tensor and the tensor. Returns the tensor unchanged, or a
new one (which may be float32). It must not write to the tensor, which is mapped from a file."""


class TokenRows(Vocabulary, Protocol):
    """A merged vocabulary that gives each parent's embeddings and head in its own row order."""

    def rows(self, parent: str, name: str, read: Callable[[str], Tensor]) -> Tensor:
        """Return one parent's matrix with a row for every token of the merged vocabulary.

        Args:
            parent: the parent's reference.
            name: name of the matrix (embeddings or head) in the merged model.
            read: takes a parent's reference and returns the matrix of this parent as it is on disk.
        """
        ...


class Reader:
    """Reads tensors of several parents; threads may read at the same time.

    Args:
        checkpoints: the parents by reference.
        patches: by reference, for the parents whose tensors are changed as they are read.
        writable: whether code that is handed a tensor may write to it. Then a page that is written
            to becomes a private copy of this process; the file never changes. If False, a write to
            a tensor ends the process with a segmentation fault.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        patches: Mapping[str, Patch] | None = None,
        *,
        writable: bool = False,
    ) -> None:
        self.checkpoints, self.writable = checkpoints, writable
        self.patches = dict(patches or {})
        self.pages = Pages()
        self._lock = threading.Lock()
        self._maps: dict[Path, mmap.mmap] = {}
        self._pickles: dict[Path, dict[str, Tensor]] = {}

    def read(self, source: SourceTensor) -> Tensor:
        """Return a tensor of a parent, with its patch if there is one.

        Without a patch, the tensor shares memory with the file and must not be written to.

        Raises:
            CheckpointError: the file changed or vanished since it was opened.
        """
        info = self.checkpoints[source.parent].tensors[source.name]
        return self._patched(info, source.name, self.patches.get(source.parent))

    def read_gram(self, gram: Gram) -> Tensor:
        """Return a Gram matrix; it shares memory with its file and must not be written to."""
        return self._stored(gram.info, gram.name)

    def release(self, source: SourceTensor) -> None:
        """Free the memory of a tensor's mapped pages; they are read again when they are needed."""
        info = self.checkpoints[source.parent].tensors[source.name]
        for stored in [part.info for part in info.parts] or [info]:
            mapped = self._maps.get(stored.file)
            if mapped is not None and stored.end > stored.begin:
                start = -(-stored.begin // mmap.PAGESIZE) * mmap.PAGESIZE
                last = stored.end == len(mapped)
                stop = stored.end if last else stored.end // mmap.PAGESIZE * mmap.PAGESIZE
                if stop > start:
                    mapped.madvise(mmap.MADV_DONTNEED, start, stop - start)

    def _patched(self, info: TensorInfo, name: str, patch: Patch | None) -> Tensor:
        if info.parts:
            return self._assemble(info, patch)
        tensor = self._stored(info, name)
        return patch(name, tensor) if patch else tensor

    def _stored(self, info: TensorInfo, name: str) -> Tensor:
        if not prod(info.shape):
            return torch.empty(info.shape, dtype=DTYPES[info.dtype])
        if info.end == 0:
            return self._pickle(info.file)[name].contiguous()
        dtype = DTYPES[info.dtype]
        mapped = self._map(info.file)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*not writable.*")
            if info.begin % dtype.itemsize:
                return torch.frombuffer(mapped[info.begin : info.end], dtype=dtype).view(info.shape)
            return torch.frombuffer(
                mapped, dtype=dtype, count=prod(info.shape), offset=info.begin
            ).view(info.shape)

    def _assemble(self, info: TensorInfo, patch: Patch | None) -> Tensor:
        """Build a tensor from boxes of stored tensors; if one box is all of it, return a view."""
        out: Tensor | None = None
        for part in info.parts:
            stored = _in_order(self._patched(part.info, part.name, patch), part.axes)
            box = _cut(stored, part.start, part.size)
            if part.size == _ordered_shape(info.shape, part.target_axes):
                return _out_of_order(box, part.target_axes)
            if out is None:
                exact = patch and info.floating
                out = torch.empty(info.shape, dtype=torch.float32 if exact else DTYPES[info.dtype])
            _cut(_in_order(out, part.target_axes), part.target, part.size).copy_(box)
        if out is None:
            raise ValueError("a tensor without parts")
        return out

    def _map(self, file: Path) -> mmap.mmap:
        with self._lock:
            if file not in self._maps:
                try:
                    self._maps[file] = map_file(file, writable=self.writable)
                except (OSError, ValueError) as error:
                    raise CheckpointError(f"{file} cannot be read: {error}.") from error
                self.pages.add(self._maps[file])
            return self._maps[file]

    def _pickle(self, file: Path) -> dict[str, Tensor]:
        with self._lock:
            if file not in self._pickles:
                from evomerge.models.pickles import load

                self._pickles[file] = load(file)
            return self._pickles[file]


def _in_order(tensor: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return a view whose axis i is the tensor's axis `axes[i]`, or a new one of size 1 for -1."""
    view = tensor.permute([axis for axis in axes if axis >= 0])
    for position, axis in enumerate(axes):
        if axis < 0:
            view = view.unsqueeze(position)
    return view


def _out_of_order(view: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Return the view that `_in_order` was made from, given the same `axes`."""
    for position in reversed(range(len(axes))):
        if axes[position] < 0:
            view = view.squeeze(position)
    kept = [axis for axis in axes if axis >= 0]
    return view.permute([kept.index(axis) for axis in range(len(kept))])


def _ordered_shape(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(shape[axis] if axis >= 0 else 1 for axis in axes)


def _cut(tensor: Tensor, start: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    return tensor[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))]
