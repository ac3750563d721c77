"""Writing safetensors files tensor by tensor; the shapes are known, so the header comes first."""

from __future__ import annotations

import itertools
import json
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path

import numpy as np

from evomerge.merging.kernels.compiled import Array
from evomerge.merging.tensors.plan import TensorPlan
from evomerge.merging.tensors.reader import DTYPES
from evomerge.models.safetensors import INDEX, SINGLE, WIDTHS, TensorInfo

_WRITE_SIZE = 1 << 18
"""Bytes that one system call writes. For larger writes, Linux looks for large pieces of free
memory, which can take long (in one measurement, 1.4 s instead of 0.2 s for 0.9 GB)."""


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


def create_file(shard: Shard, folder: Path) -> int:
    """Create the file of a shard with its header and full size; return its file descriptor.

    An `OSError` here and in `put` says that the disk is full or cannot be written.
    """
    file = folder / shard.name
    file.parent.mkdir(exist_ok=True)
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
    os.ftruncate(descriptor, shard.size)
    _write(descriptor, memoryview(shard.header), 0)
    return descriptor


def put(descriptor: int, place: TensorInfo, array: Array) -> None:
    """Write a tensor to its place in a file; threads may write different ones at the same time."""
    if array.size:
        content = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        _write(descriptor, content.data, place.begin)


def _write(descriptor: int, content: memoryview, at: int) -> None:
    while content:
        count = os.pwrite(descriptor, content[:_WRITE_SIZE], at)
        content, at = content[count:], at + count
