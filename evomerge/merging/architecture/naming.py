"""Giving parents of one architecture the tensor names of the host, and checking that they fit.

Some versions of transformers save the experts of a mixture one by one, others in one tensor. Where
the tensors of both checkpoints lie in transformers' model (see `layout`) shows which boxes
(sub-tensors) of the parent's stored tensors make up each tensor of the host.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from operator import sub
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit, has_counterparts
from evomerge.models.parts import fitted_parts
from evomerge.models.safetensors import Box, TensorInfo

if TYPE_CHECKING:
    from evomerge.merging.architecture.layout import Location


def fitting(
    checkpoints: Mapping[str, Checkpoint],
    host: str,
    *,
    vocabularies: bool,
    tokenizer: str = "tokenizer",
) -> dict[str, Checkpoint]:
    """Return the parents with the host's names of tensors; CheckpointError: one does not fit.

    Where not all can have the classification head of the host, it is not merged.

    Args:
        vocabularies: whether they must have as many rows of embeddings.
        tokenizer: the key in the user's file that lets vocabularies differ.
    """
    named = fitted_parts(with_host_names(checkpoints, host), host)
    check_fit(named[host], list(named.values()), vocabularies=vocabularies, tokenizer=tokenizer)
    return named


def with_host_names(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, Checkpoint]:
    """Return the parents, each with tensors that have the names and shapes of the host's.

    A parent is unchanged if its names correspond already (up to a prefix), if it has another
    architecture, or if the two cannot be related through transformers' model.
    """
    return {name: _renamed(checkpoints[host], item) for name, item in checkpoints.items()}


def _renamed(host: Checkpoint, parent: Checkpoint) -> Checkpoint:
    same = parent.config.get("architectures") == host.config.get("architectures")
    if parent is host or not same or has_counterparts(host, parent):
        return parent
    from evomerge.merging.architecture.layout import layout_of

    try:
        theirs, ours = (layout_of(item).locations for item in (host, parent))
    except CheckpointError:
        return parent
    by_parameter: dict[str, list[tuple[str, Location]]] = {}
    for name, location in ours.items():
        by_parameter.setdefault(location.parameter, []).append((name, location))
    tensors: dict[str, TensorInfo] = {}
    for name, location in theirs.items():
        boxes = _boxes(location, by_parameter.get(location.parameter, []), parent)
        if boxes is None:
            return parent
        dtype = boxes[0].info.dtype
        tensors[name] = TensorInfo(dtype, host.tensors[name].shape, Path(), 0, 0, boxes)
    tensors |= {name: info for name, info in parent.tensors.items() if parent.module_of(name)}
    return replace(parent, tensors=tensors, original=parent)


def _boxes(
    location: Location, candidates: list[tuple[str, Location]], parent: Checkpoint
) -> tuple[Box, ...] | None:
    """Return the boxes of the parent's tensors that make up one tensor of the host."""
    boxes = []
    for name, other in candidates:
        start = tuple(map(max, location.start, other.start))
        size = tuple(map(sub, map(min, location.stop, other.stop), start))
        if min(size, default=1) > 0:
            ours, theirs = (tuple(map(sub, start, it.start)) for it in (other, location))
            info = parent.tensors[name]
            boxes.append(Box(name, info, other.axes, ours, size, theirs, location.axes))
    is_whole = sum(prod(box.size) for box in boxes) == prod(location.size)
    return tuple(boxes) if is_whole and len({box.info.dtype for box in boxes}) == 1 else None
