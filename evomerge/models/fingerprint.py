"""Digests of the content of a model: a fast one of samples, and one of every byte."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from evomerge.models.safetensors import TensorInfo

_BLOB = re.compile(r"[0-9a-f]{64}")
_WHOLE = 1 << 16
_SAMPLES = 16
_SAMPLE = 4096


def content_digest(files: Iterable[Path], tensors: Mapping[str, TensorInfo]) -> str:
    """Return a SHA-256 of files and tensors, as 64 hexadecimal digits.

    It covers the name and all bytes of every file, and the name, dtype and shape of every tensor.
    Of the data of a tensor it covers everything up to 64 KiB, or else 16 samples of 4 KiB that are
    spread evenly. So it changes if a model is replaced or trained further. It does not change if
    only a few elements between the samples are edited. It is the same for the same tensors in
    safetensors and in pickle files.

    Raises:
        CheckpointError: a pickle file is damaged.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}:{file.stat().st_size}\n".encode() + file.read_bytes())
    pickles: dict[Path, Any] = {}
    for name, info in sorted(tensors.items()):
        total.update(f"{name}:{info.dtype}:{info.shape}\n".encode())
        if info.end > info.begin:
            total.update(_sample(info))
        elif info.nbytes:
            from evomerge.models.pickles import load, raw

            if info.file not in pickles:
                pickles[info.file] = load(info.file)
            data = raw(pickles[info.file][info.stored or name])
            for start, size in _spans(info.nbytes):
                total.update(data[start : start + size])
    return total.hexdigest()


def file_digest(file: Path) -> str:
    """Return the SHA-256 of all bytes of a file, as 64 hexadecimal digits; 1.4 GB take a second."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def promised_digest(file: Path) -> str | None:
    """Return the SHA-256 that a file of the Hub's cache has by its name; None for other files."""
    real = file.resolve()
    found = real.parent.name == "blobs" and _BLOB.fullmatch(real.name)
    return real.name if found else None


def _spans(nbytes: int) -> list[tuple[int, int]]:
    """Return the parts of a tensor of this size that are covered: first byte and length."""
    if nbytes <= _WHOLE:
        return [(0, nbytes)]
    step = (nbytes - _SAMPLE) / (_SAMPLES - 1)
    return [(int(i * step), _SAMPLE) for i in range(_SAMPLES)]


def _sample(info: TensorInfo) -> bytes:
    """Return the bytes of a tensor in a safetensors file that the digest covers."""
    descriptor = os.open(info.file, os.O_RDONLY)
    try:
        spans = _spans(info.nbytes)
        return b"".join(os.pread(descriptor, size, info.begin + start) for start, size in spans)
    finally:
        os.close(descriptor)
