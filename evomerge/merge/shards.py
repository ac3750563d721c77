"""Writing safetensors files tensor by tensor: shapes are known, so the header goes first."""

from __future__ import annotations

import json
import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from evomerge.merge.tensors.pages import Pages
from evomerge.merge.tensors.plan import TensorPlan
from evomerge.merge.tensors.reader import DTYPES
from evomerge.models.safetensors import INDEX, SINGLE, TensorInfo

_AT_ONCE = 1 << 18
"""Bytes in one call: for larger ones Linux looks for runs of free memory that may not be there
(1.4 s instead of 0.2 s for 0.9 GB were seen)."""


class Buffers(threading.local):
    """One buffer a thread, used again by every tensor that it makes.

    Args:
        largest: bytes that a buffer may have. Tensors that are larger are written through a map
            of the file, whose pages can be given back while the tensor is still being made.
    """

    def __init__(self, largest: int) -> None:
        self._largest = largest
        self._held = torch.empty(0, dtype=torch.uint8)

    def get(self, size: int) -> Tensor | None:
        """Return `size` bytes, or None where that is too much."""
        if size > self._largest:
            return None
        if self._held.numel() < size:
            self._held = torch.empty(size, dtype=torch.uint8)
        return self._held[:size]


@dataclass(frozen=True)
class Shard:
    """One file of the output.

    Attributes:
        name: file name.
        plans: its tensors, wider dtypes first, so that each lies at a multiple of its width.
        header: the bytes before the data.
        places: where each tensor lies, by name.
    """

    name: str
    plans: tuple[TensorPlan, ...]
    header: bytes
    places: dict[str, TensorInfo]

    @property
    def size(self) -> int:
        """Bytes of the whole file."""
        return max((info.end for info in self.places.values()), default=len(self.header))


def lay_out(plans: Sequence[TensorPlan], shard_size: int, folder: Path) -> list[Shard]:
    """Cut tensors into shards of at most `shard_size` bytes of data (or one tensor, if larger)."""
    groups: list[list[TensorPlan]] = [[]]
    filled = 0
    for plan in plans:
        size = nbytes(plan)
        if groups[-1] and filled + size > shard_size:
            groups.append([])
            filled = 0
        groups[-1].append(plan)
        filled += size
    count = len(groups)
    return [
        _shard(
            folder / (SINGLE if count == 1 else f"model-{i:05}-of-{count:05}.safetensors"), group
        )
        for i, group in enumerate(groups, 1)
    ]


def nbytes(plan: TensorPlan) -> int:
    """Return the bytes a tensor takes on disk."""
    return TensorInfo(plan.dtype, plan.shape, Path(), 0, 0).nbytes


def index_of(shards: Sequence[Shard]) -> str:
    """Return the text of `model.safetensors.index.json`."""
    total = sum(nbytes(plan) for shard in shards for plan in shard.plans)
    weight_map = {plan.name: shard.name for shard in shards for plan in shard.plans}
    return json.dumps(
        {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))},
        indent=2,
    )


def companion_index(shards: Sequence[Shard]) -> dict[str, str]:
    """Return the index file by name, where there is more than one shard."""
    return {INDEX: index_of(shards) + "\n"} if len(shards) > 1 else {}


def _shard(file: Path, plans: Sequence[TensorPlan]) -> Shard:
    ordered = sorted(plans, key=lambda plan: -DTYPES[plan.dtype].itemsize)
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for plan in ordered:
        end = at + nbytes(plan)
        entries[plan.name] = {"dtype": plan.dtype, "shape": plan.shape, "data_offsets": [at, end]}
        at = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    header = struct.pack("<Q", len(text)) + text
    places, at = {}, len(header)
    for plan in ordered:
        places[plan.name] = TensorInfo(plan.dtype, plan.shape, file, at, at + nbytes(plan))
        at += nbytes(plan)
    return Shard(file.name, tuple(ordered), header, places)


class ShardWriter:
    """Writes one shard; threads may write different tensors of it at the same time.

    Args:
        shard: what goes where.
        folder: folder of the file.
        buffers: what tensors are made in.
        pages: told of the file's maps, whose pages may be given back.

    Raises:
        OSError: the disk is full or cannot be written.
    """

    def __init__(self, shard: Shard, folder: Path, buffers: Buffers, pages: Pages) -> None:
        self._shard, self._buffers, self._pages = shard, buffers, pages
        self._descriptor = os.open(folder / shard.name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        os.ftruncate(self._descriptor, shard.size)
        _write(self._descriptor, memoryview(shard.header), 0)

    @contextmanager
    def tensor(self, plan: TensorPlan) -> Iterator[Tensor]:
        """Yield a tensor to be filled; it is in the file when the block ends.

        Args:
            plan: one of the shard's.
        """
        info = self._shard.places[plan.name]
        dtype = DTYPES[plan.dtype]
        buffer = self._buffers.get(info.nbytes)
        if buffer is not None:
            out = buffer.view(dtype).view(plan.shape)
            yield out
            self.put(plan, out)
            return
        # Space that is promised now cannot be missing when a mapped page is written out.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._descriptor, info.begin, info.nbytes)
        start = info.begin // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        mapped = mmap.mmap(self._descriptor, info.end - start, offset=start)
        out = torch.frombuffer(mapped, dtype=dtype, offset=info.begin - start, count=-1)
        self._pages.add(mapped)
        try:
            yield out.view(plan.shape)
        finally:
            self._pages.drop(mapped)

    def put(self, plan: TensorPlan, tensor: Tensor) -> None:
        """Write a tensor that is ready."""
        if tensor.numel():
            content = tensor.detach().contiguous().reshape(-1).view(torch.uint8)
            _write(self._descriptor, content.numpy().data, self._shard.places[plan.name].begin)

    def close(self) -> None:
        """Close the file."""
        os.close(self._descriptor)


def _write(descriptor: int, content: memoryview, at: int) -> None:
    while content:
        count = os.pwrite(descriptor, content[:_AT_ONCE], at)
        content, at = content[count:], at + count
