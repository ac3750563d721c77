"""Weights in FP8 with a scale for each block, as DeepSeek-V3 and Qwen3-FP8 are published.

A matrix `x.weight` of 8-bit numbers has a companion `x.weight_scale_inv` with one factor for each
block of `weight_block_size` rows and columns, by which the numbers are multiplied (DeepSeek-AI
2024, arXiv 2412.19437, section 3.3). Such a matrix counts as bfloat16 and is multiplied out when it
is read.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.safetensors import FLOATING, Scale, TensorInfo
from evomerge.parsing.values import shown

VERSION = 1
"""Changes with the bits of what `multiplied` returns; it is part of a parent's fingerprint."""

_FULL = "merge the full-precision checkpoint it was made from."

_STORED, _SUFFIX = "F8_E4M3", "_scale_inv"
_SECTION = "quantization_config"


def with_scales(
    tensors: Mapping[str, TensorInfo], config: Mapping[str, Any], reference: str
) -> dict[str, TensorInfo]:
    """Return the tensors of a model with matrices in FP8 as bfloat16, without their scales.

    `config` is its `config.json`.

    Raises:
        CheckpointError: the weights are quantised in another way, or a scale does not fit.
    """
    block = _block_of(config, reference)
    result = dict(tensors)
    for name, info in tensors.items():
        scale = tensors.get(name + _SUFFIX)
        if info.dtype == _STORED and block and scale is not None:
            *before, rows, columns = (1, 1, *info.shape)
            wanted = (*before[2:], -(-rows // block[0]), -(-columns // block[1]))
            if len(info.shape) < 2 or scale.shape != wanted or scale.dtype not in FLOATING:
                raise CheckpointError(
                    f"Parent {reference!r}: {shown(name + _SUFFIX)} is {scale.dtype} "
                    f"{list(scale.shape)}, and blocks of {block[0]} x {block[1]} of {name!r} need "
                    f"numbers of shape {list(wanted)}; download it again, or {_FULL}"
                )
            del result[name + _SUFFIX]
            result[name] = replace(info, dtype="BF16", scale=Scale(scale, block))
        elif info.dtype.startswith("F8"):
            raise CheckpointError(
                f"Parent {reference!r} is quantised (tensor {name!r} is {info.dtype}, without "
                f"{_SUFFIX[1:]} for blocks); {_FULL}"
            )
    return result


def without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config without what says how the weights are quantised."""
    return {key: value for key, value in config.items() if key != _SECTION}


def as_stored(tensors: Mapping[str, TensorInfo]) -> dict[str, TensorInfo]:
    """Return the tensors as they are in their files, with the scales."""
    stored = {}
    for name, info in tensors.items():
        if info.scale is not None:
            stored[name + _SUFFIX] = info.scale.info
            info = replace(info, dtype=_STORED, scale=None)
        stored[name] = info
    return stored


def _block_of(config: Mapping[str, Any], reference: str) -> tuple[int, int] | None:
    """Return the size of a block that has one scale; None: the weights are not quantised."""
    given = config.get(_SECTION)
    if not given:
        return None
    about = given if isinstance(given, Mapping) else {}
    method, block = about.get("quant_method"), about.get("weight_block_size")
    entries = block if isinstance(block, list) else []
    sizes = [size for size in entries if type(size) is int and size > 0]
    if method == "fp8" and len(sizes) == 2 and sizes == block:
        return sizes[0], sizes[1]
    kind = about.get("quant_algo") or about.get("format") or method or given
    how = f"FP8 without weight_block_size {shown(block)}" if method == "fp8" else shown(kind)
    raise CheckpointError(
        f"Parent {reference!r} is quantised (config.json: {_SECTION} is {how}), and only FP8 with "
        f"a scale for each block of weight_block_size is read; {_FULL}"
    )
