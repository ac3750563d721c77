"""Reading old checkpoints in pickle files (`pytorch_model*.bin`) with torch's `weights_only`."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from evomerge.errors import CheckpointError, one_line
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
    """Return the tensors of one pickle file, memory-mapped; `weights_only` keeps code from running.

    Raises:
        CheckpointError: the file is damaged, or has other objects than weights.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises anything for a pickle that is damaged
        raise CheckpointError(
            f"{file} cannot be read as plain weights: {one_line(error).rstrip('.')}; take a copy "
            "that is not damaged, or safetensors files."
        ) from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} is not a mapping from tensor names to tensors.")
    return {name: item for name, item in content.items() if isinstance(item, Tensor)}


def raw(tensor: Tensor) -> memoryview:
    """Return the bytes that a tensor would have in a safetensors file."""
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data


def read_folder(folder: Path) -> dict[str, TensorInfo]:
    """Return all tensors in the pickle files of a folder, by name; their offsets are 0.

    Raises:
        CheckpointError: there are none, or a tensor has a dtype that safetensors does not have.
    """
    found: dict[str, TensorInfo] = {}
    for file in sorted(folder.glob("pytorch_model*.bin")):
        for name, tensor in load(file).items():
            if tensor.dtype not in _NAMES:
                raise CheckpointError(
                    f"{file}: tensor {name!r} has dtype {tensor.dtype}, which is not supported."
                )
            found[name] = TensorInfo(_NAMES[tensor.dtype], tuple(tensor.shape), file, 0, 0)
    if not found:
        raise CheckpointError(f"{folder} has no pytorch_model*.bin with tensors.")
    return found
