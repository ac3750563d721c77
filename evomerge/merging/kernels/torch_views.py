"""Torch tensors as arrays of stored weights (see `compiled`) without copies, and back."""

import numpy as np
import torch
from torch import Tensor

from evomerge.merging.kernels.compiled import Array

TORCH_DTYPES = {
    "BOOL": torch.bool, "BF16": torch.bfloat16,
    "F16": torch.float16, "F32": torch.float32, "F64": torch.float64,
    "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "U8": torch.uint8, "U16": torch.uint16, "U32": torch.uint32, "U64": torch.uint64,
}  # fmt: skip
"""dtype of a parent's tensor, as safetensors headers spell it -> torch's."""

_WEIGHTS = {
    np.dtype(np.uint16): torch.bfloat16,
    np.dtype(np.int16): torch.float16,
    np.dtype(np.float32): torch.float32,
    np.dtype(np.float64): torch.float64,
}
_BITS = {torch.bfloat16: torch.uint16, torch.float16: torch.int16}


def as_tensor(array: Array, dtype: str | None = None) -> Tensor:
    """Return a tensor that shares the memory of an array of bits of a dtype of safetensors.

    `dtype` None: that of stored weights.
    """
    wanted = _WEIGHTS[array.dtype] if dtype is None else TORCH_DTYPES[dtype]
    return torch.from_numpy(array).view(wanted)


def multiplied(stored: Array, scales: Array, block: tuple[int, int]) -> Array:
    """Return a matrix in FP8 times its scales, computed in float32 and rounded to bfloat16.

    Args:
        stored: bits of the numbers (float8_e4m3fn), of shape (..., rows, columns).
        scales: a factor for each block, of shape (..., rows / block, columns / block), rounded up.
        block: rows and columns of a block; the last ones may have fewer.
    """
    rows, columns = stored.shape[-2:]
    result = torch.from_numpy(stored).view(torch.float8_e4m3fn).float()
    factors = as_tensor(scales).float()
    factors = factors.repeat_interleave(block[0], dim=-2)[..., :rows, :]
    for column in range(factors.shape[-1]):
        inside = slice(column * block[1], min(columns, (column + 1) * block[1]))
        result[..., inside] *= factors[..., column : column + 1]
    return as_array(result.bfloat16())


def as_array(tensor: Tensor) -> Array:
    """Return an array of a tensor's bits that shares its memory (on the CPU)."""
    array: Array = tensor.detach().view(_BITS.get(tensor.dtype, tensor.dtype)).numpy()
    return array
