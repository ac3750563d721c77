"""Headers of safetensors files: which tensor is where, checked before any weight is read.

A model is one safetensors file, or several (shards) with `model.safetensors.index.json`. A file has
8 bytes (the length of the header, little-endian), a JSON header and the data. The library detects
damaged and malicious headers, so that other modules can rely on the offsets.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError, safe_open

from evomerge.errors import CheckpointError, one_line
from evomerge.parsing.texts import json_value, read_text
from evomerge.parsing.values import shown

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"

_NAMES = {
    1: ("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"),
    2: ("I16", "U16", "F16", "BF16"),
    4: ("I32", "U32", "F32"),
    8: ("I64", "U64", "F64"),
}
WIDTHS = {name: width for width, names in _NAMES.items() for name in names}
"""Bytes of one element, by the name of the dtype in a safetensors header."""

FLOATING = frozenset({"F16", "BF16", "F32", "F64"})
"""The dtypes of tensors that can be merged; other tensors are copied."""

_LFS_POINTER = b"version https://git-lfs"
_MOST_BYTES, _MOST_TENSORS = 25_000_000, 200_000
"""Limits of a header; one tensor takes about 100 bytes of it, and a shard rarely has 10,000."""


@dataclass(frozen=True, slots=True)
class Box:
    """A box (rectangular range) of a stored tensor that becomes a box of an assembled tensor.

    `axes` and `target_axes` permute the axes of the stored and of the assembled tensor into one
    common order; -1 stands for a new axis of size 1. In this order, the box begins at `start` in
    the stored tensor, and at `target` in the assembled one.
    """

    name: str
    info: "TensorInfo"
    axes: tuple[int, ...]
    start: tuple[int, ...]
    size: tuple[int, ...]
    target: tuple[int, ...]
    target_axes: tuple[int, ...]


def inside(start: tuple[int, ...], size: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the index of a box that begins at `start`, for arrays and torch tensors."""
    return tuple(slice(first, first + count) for first, count in zip(start, size, strict=True))


@dataclass(frozen=True, slots=True)
class Scale:
    """The factors of a matrix in FP8: one for each block of `block` (rows, columns)."""

    info: "TensorInfo"
    block: tuple[int, int]


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor is stored: in bytes `begin` to before `end` of a file.

    `dtype` is as in the header (`BF16`, `F32`, ...). `boxes` are those of stored tensors that
    it is assembled from, if the file stores it in another form. `scale`: the file has it in FP8,
    and `dtype` is what it becomes.
    """

    dtype: str
    shape: tuple[int, ...]
    file: Path
    begin: int
    end: int
    boxes: tuple[Box, ...] = ()
    scale: Scale | None = None

    @property
    def nbytes(self) -> int:
        """Size of the data in bytes."""
        return prod(self.shape) * WIDTHS[self.dtype]

    @property
    def floating(self) -> bool:
        """Whether the dtype is a floating-point type that can be merged."""
        return self.dtype in FLOATING


def read_json(file: Path) -> dict[str, Any]:
    """Return the JSON object in a file; CheckpointError: it is none."""
    missing = f"{file} does not exist; download it again."
    data = json_value(read_text(file, CheckpointError, missing), str(file), CheckpointError)
    if not isinstance(data, dict):
        raise CheckpointError(f"{file} is not a JSON object; download the file again.")
    return data


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Return all tensors of one safetensors file, by name.

    CheckpointError: the file is truncated, or its header is wrong (unknown dtype, data outside of
    the file, a size that does not match the shape, tensors with an overlap or a gap) or too large.
    """
    try:
        with file.open("rb") as stream:
            start = stream.read(len(_LFS_POINTER))
            if start != _LFS_POINTER:
                _check_size(stream, int.from_bytes(start[:8], "little"), file)
            with safe_open(file, "numpy"):  # checks the header
                pass
            stream.seek(8)
            begin = 8 + int.from_bytes(start[:8], "little")
            header = json.loads(stream.read(begin - 8))
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read: {error}.") from error
    except SafetensorError as error:
        why = f" is not a complete safetensors file ({one_line(error)}); download it again"
        if start == _LFS_POINTER:
            why = " is a pointer of Git LFS, not the weights; run `git lfs pull` in its folder"
        if dtype := re.search(r"unknown variant `(\w+)`", str(error)):
            why = f": a tensor has dtype {dtype[1]}; known are {', '.join(WIDTHS)}"
        raise CheckpointError(f"{file}{why}.") from None
    header.pop("__metadata__", None)
    tensors = {}
    for name, item in header.items():
        if item["dtype"] not in WIDTHS:
            raise CheckpointError(
                f"{file}: tensor {shown(name)} has dtype {item['dtype']}; known are "
                f"{', '.join(WIDTHS)}."
            )
        first, last = item["data_offsets"]
        shape = tuple(item["shape"])
        tensors[name] = TensorInfo(item["dtype"], shape, file, begin + first, begin + last)
    return tensors


def _check_size(stream: BinaryIO, size: int, file: Path) -> None:
    """Raise a CheckpointError if a header takes much time and memory to parse."""
    if size > file.stat().st_size:  # the library says what is wrong
        return
    stream.seek(8)
    count = stream.read(min(size, _MOST_BYTES)).count(b'"dtype"')
    if size > _MOST_BYTES or count > _MOST_TENSORS:
        raise CheckpointError(
            f"{file} has {count:,} tensors or more and a header of {size:,} bytes, and at most "
            f"{_MOST_TENSORS:,} tensors and {_MOST_BYTES:,} bytes are read; save the model in "
            "several shards, with `save_pretrained(..., max_shard_size=...)`."
        )


def read_folder(folder: Path) -> dict[str, TensorInfo]:
    """Return all tensors in the safetensors files of a model folder, by name.

    CheckpointError: there are no such files, a shard is missing or is outside of the folder, or the
    index and the shards disagree.
    """
    if (index := folder / INDEX).is_file():
        return _read_shards(folder, index)
    found = sorted(folder.glob("*.safetensors"))
    if (single := folder / SINGLE).is_file() or len(found) == 1:
        return read_header(single if single in found else found[0])
    if found:
        raise CheckpointError(
            f"{folder} has {len(found)} safetensors files and no {INDEX}; download it."
        )
    raise CheckpointError(
        f"{folder} has no safetensors weights; a parent needs {SINGLE}, or shards with {INDEX}."
    )


def _read_shards(folder: Path, index: Path) -> dict[str, TensorInfo]:
    weight_map = read_json(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map; download it again.")
    headers: dict[str, dict[str, TensorInfo]] = {}
    present = {item.name for item in folder.iterdir() if item.is_file()}
    for shard in weight_map.values():
        if not isinstance(shard, str) or shard not in present:
            raise CheckpointError(
                f"{index} names the shard {shown(shard)}, which is missing in the folder; download "
                "it, or the index again."
            )
        if shard not in headers:
            headers[shard] = read_header(folder / shard)
    for name, shard in weight_map.items():
        if name not in headers[shard]:
            raise CheckpointError(
                f"{index} says that tensor {shown(name)} is in {shown(shard)}, but it is not; "
                "download both again."
            )
    return {name: headers[shard][name] for name, shard in weight_map.items()}


_WHOLE, _SAMPLES, _SAMPLE = 1 << 16, 16, 4096


def content_digest(files: Iterable[Path], tensors: Mapping[str, TensorInfo]) -> str:
    """Return a SHA-256 of files and tensors, as 64 hexadecimal digits.

    It covers the name and all bytes of every file, and the name, dtype and shape of every tensor;
    of its data everything up to 64 KiB, or else 16 samples of 4 KiB that are spread evenly. So it
    changes if a model is replaced or trained further, but not if few elements are edited.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}:{file.stat().st_size}\n".encode() + file.read_bytes())
    for name, info in sorted(tensors.items()):
        total.update(f"{name}:{info.dtype}:{info.shape}\n".encode())
        if info.end > info.begin:
            total.update(_sample(info))
    return total.hexdigest()


def _sample(info: TensorInfo) -> bytes:
    spans = [(0, info.nbytes)]
    if info.nbytes > _WHOLE:
        step = (info.nbytes - _SAMPLE) / (_SAMPLES - 1)
        spans = [(int(i * step), _SAMPLE) for i in range(_SAMPLES)]
    descriptor = os.open(info.file, os.O_RDONLY)
    try:
        return b"".join(os.pread(descriptor, size, info.begin + start) for start, size in spans)
    finally:
        os.close(descriptor)
