"""The digest of the content of a model: of its files and of samples of its weights."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from evomerge.models.safetensors import TensorInfo

_WHOLE = 1 << 16
_SAMPLES = 16
_SAMPLE = 4096


def content_digest(files: Iterable[Path], tensors: Mapping[str, TensorInfo]) -> str:
    """Return a SHA-256 of files and tensors, as 64 hexadecimal digits.

    It covers the name and all bytes of every file, and the name, dtype and shape of every tensor.
    Of the data of a tensor it covers everything up to 64 KiB, or else 16 samples of 4 KiB that are
    spread evenly. So it changes if a model is replaced or trained further. It does not change if
    only a few elements between the samples are edited.
    """
    total = hashlib.sha256()
    for file in files:
        total.update(f"{file.name}:{file.stat().st_size}\n".encode() + file.read_bytes())
    for name, info in sorted(tensors.items()):
        total.update(f"{name}:{info.dtype}:{info.shape}\n".encode())
        if info.end > info.begin:
            total.update(_sample(info))
    return total.hexdigest()


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
