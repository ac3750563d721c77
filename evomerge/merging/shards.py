"""Writing safetensors files tensor by tensor; the shapes are known, so the header comes first."""

from __future__ import annotations

import itertools
import json
import mmap
import os
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.tensors.plan import TensorPlan
from evomerge.merging.tensors.reader import DTYPES, Pages
from evomerge.models.safetensors import INDEX, SINGLE, WIDTHS, TensorInfo

_WRITE_SIZE = 1 << 18
"""Bytes that one system call writes. For larger writes, Linux looks for large pieces of free
memory, which can take long (in one measurement, 1.4 s instead of 0.2 s for 0.9 GB)."""


class Buffers(threading.local):
    """One buffer for each thread, in which the thread makes its tensors.

    A tensor of more than `largest` bytes is made in a memory map of the file instead, so that its
    pages can be freed before the tensor is complete.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._held = np.empty(0, dtype=np.uint8)

    def get(self, size: int) -> Array | None:
        """Return `size` bytes of the thread's buffer, or None if `size` is too large."""
        if size > self._largest:
            return None
        if len(self._held) < size:
            self._held = np.empty(size, dtype=np.uint8)
        return self._held[:size]


@dataclass(frozen=True)
class Shard:
    """One file of the output.

    Attributes:
        name: its path in the folder of the model.
        plans: plans of its tensors. Wider dtypes come first, so that every tensor begins at a
            multiple of the size of its elements.
        header: the bytes before the data.
        tensors: where each tensor lies in the file, by name.
    """

    name: str
    plans: tuple[TensorPlan, ...]
    header: bytes
    tensors: dict[str, TensorInfo]

    @classmethod
    def of(cls, folder: Path, name: str, plans: Sequence[TensorPlan], module: str = "") -> Shard:
        """Return the shard with these tensors; in a module's file they lack its folder's name."""
        file = folder / name
        ordered = sorted(plans, key=lambda plan: -DTYPES[plan.dtype].itemsize)
        ends = list(itertools.accumulate(map(nbytes, ordered), initial=0))
        entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
        for plan, *offsets in zip(ordered, ends, ends[1:], strict=False):
            entries[plan.name.removeprefix(f"{module}.")] = {
                "dtype": plan.dtype,
                "shape": plan.shape,
                "data_offsets": offsets,
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 8)
        header = struct.pack("<Q", len(text)) + text
        places = {
            plan.name: TensorInfo(plan.dtype, plan.shape, file, len(header) + a, len(header) + b)
            for plan, a, b in zip(ordered, ends, ends[1:], strict=False)
        }
        return cls(name, tuple(ordered), header, places)

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return max((info.end for info in self.tensors.values()), default=len(self.header))


def split_into_shards(
    plans: Sequence[TensorPlan], shard_size: int, folder: Path, module_of: Callable[[str], str]
) -> list[Shard]:
    """Divide tensors, in their order, among files of at most `shard_size` bytes of data.

    Those of a module of a sentence encoder (`module_of` gives its folder) are in a file there.
    """
    modules: dict[str, list[TensorPlan]] = {"": []}
    for plan in plans:
        modules.setdefault(module_of(plan.name), []).append(plan)
    groups: list[list[TensorPlan]] = [[]]
    filled = 0
    for plan in modules.pop(""):
        size = nbytes(plan)
        if groups[-1] and filled + size > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(plan)
        filled += size
    count, inside = len(groups), modules.items()
    names = [f"model-{i:05}-of-{count:05}.safetensors" for i in range(1, count + 1)]
    return [
        *map(partial(Shard.of, folder), names if count > 1 else [SINGLE], groups),
        *(Shard.of(folder, f"{module}/{SINGLE}", own, module) for module, own in inside),
    ]


def nbytes(plan: TensorPlan) -> int:
    """Return the bytes that a tensor takes on disk."""
    return WIDTHS[plan.dtype] * prod(plan.shape)


def index_files(shards: Sequence[Shard]) -> dict[str, str]:
    """Return {name: text} of the index file, which is needed if a model has several shards.

    The files of modules are not of these.
    """
    shards = [shard for shard in shards if "/" not in shard.name]
    if len(shards) == 1:
        return {}
    names = {plan.name: shard.name for shard in shards for plan in shard.plans}
    total = sum(nbytes(plan) for shard in shards for plan in shard.plans)
    data = {"metadata": {"total_size": total}, "weight_map": dict(sorted(names.items()))}
    return {INDEX: json.dumps(data, indent=2) + "\n"}


class ShardWriter:
    """Creates the file of a shard; threads may write different tensors of it at the same time.

    `pages` frees pages of the file's memory maps. An `OSError` says that the disk is full or cannot
    be written.
    """

    def __init__(self, shard: Shard, folder: Path, buffers: Buffers, pages: Pages) -> None:
        self._shard, self._buffers, self._pages = shard, buffers, pages
        (folder / shard.name).parent.mkdir(exist_ok=True)
        self._descriptor = os.open(folder / shard.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.ftruncate(self._descriptor, shard.size)
        _write(self._descriptor, memoryview(shard.header), 0)

    @contextmanager
    def tensor(self, plan: TensorPlan) -> Iterator[Array]:
        """Yield an uninitialised array for the caller to fill, then write it to the file."""
        info = self._shard.tensors[plan.name]
        dtype = DTYPES[plan.dtype]
        buffer = self._buffers.get(info.nbytes)
        if buffer is not None:
            out = buffer.view(dtype).reshape(plan.shape)
            yield out
            self.put(plan, out)
            return
        # Reserve the disk space first. If the disk were full when a mapped page is written back,
        # the process would be killed.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, info.begin, info.nbytes)
        start = info.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._descriptor, info.end - start, offset=start)
        out = np.frombuffer(mapped, dtype=dtype, offset=info.begin - start)
        self._pages.add(mapped)
        try:
            yield out.reshape(plan.shape)
        finally:
            self._pages.drop(mapped)

    def put(self, plan: TensorPlan, array: Array) -> None:
        """Write a finished tensor."""
        if array.size:
            content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
            _write(self._descriptor, content.data, self._shard.tensors[plan.name].begin)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _write(descriptor: int, content: memoryview, at: int) -> None:
    while content:
        count = os.pwrite(descriptor, content[:_WRITE_SIZE], at)
        content, at = content[count:], at + count
