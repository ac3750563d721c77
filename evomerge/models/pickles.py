"""Old checkpoints in pickles (`pytorch_model*.bin`), read with torch's restricted unpickler."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import CheckpointError
from evomerge.models.safetensors import TensorInfo

_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.int32: "I32",
    torch.int64: "I64",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float32: "F32",
    torch.float64: "F64",
}


def load(file: Path) -> dict[str, Tensor]:
    """Return the tensors of one pickle, mapped from the file; `weights_only` stays on.

    Raises:
        CheckpointError: the file is damaged or holds more than tensors.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} cannot be read as plain weights: {reason}") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} holds no mapping of tensor names to tensors.")
    return {name: item for name, item in content.items() if isinstance(item, Tensor)}


def read_folder(folder: Path) -> dict[str, TensorInfo]:
    """Return every tensor of the folder's pickles (offsets are 0: a pickle has none)."""
    found: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("pytorch_model*.bin")):
        for name, tensor in load(file).items():
            if tensor.dtype not in _NAMES:
                raise CheckpointError(f"{file}: tensor {name!r} has dtype {tensor.dtype}.")
            found[name] = TensorInfo(_NAMES[tensor.dtype], tuple(tensor.shape), file, 0, 0)
    if not found:
        raise CheckpointError(f"{folder} has no pytorch_model*.bin with tensors.")
    return found
