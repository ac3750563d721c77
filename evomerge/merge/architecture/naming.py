"""Parents of one architecture whose files name and pack their tensors in different ways.

Versions of transformers differ in whether a mixture's experts are saved one by one or fused, for
instance. Nothing about that is written down here: transformers is asked where the tensors of both
checkpoints land in its model (see `layout`), and a parent's tensors are then described in the
host's names, as boxes of what its file has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import has_counterparts
from evomerge.models.safetensors import Part, TensorInfo

if TYPE_CHECKING:
    from evomerge.merge.architecture.probe import Spot


def matched(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, Checkpoint]:
    """Return all parents with their tensors described in the names of the host, where needed.

    Args:
        checkpoints: the parents by reference.
        host: reference of the one that gives the names.
    """
    return {name: in_names_of(checkpoints[host], item) for name, item in checkpoints.items()}


def in_names_of(host: Checkpoint, parent: Checkpoint) -> Checkpoint:
    """Return the parent with its tensors described in the host's names.

    It is returned as it is where its names are the host's (wrappers apart), where its
    architecture is another one, or where transformers cannot lay both out in one model.
    """
    same = parent.config.get("architectures") == host.config.get("architectures")
    if parent is host or not same or has_counterparts(host, parent):
        return parent
    try:
        theirs, own = _spots(host), _spots(parent)
    except CheckpointError:
        return parent
    by_parameter: dict[str, list[tuple[str, Spot]]] = {}
    for name, spot in own.items():
        by_parameter.setdefault(spot.parameter, []).append((name, spot))
    tensors: dict[str, TensorInfo] = {}
    for name, spot in theirs.items():
        found = _parts(spot, by_parameter.get(spot.parameter, []), parent)
        if found is None:
            return parent
        dtype = found[0].info.dtype
        tensors[name] = TensorInfo(dtype, host.tensors[name].shape, Path(), 0, 0, found)
    return replace(parent, tensors=tensors, original=parent)


def _spots(checkpoint: Checkpoint) -> Mapping[str, Spot]:
    import torch

    from evomerge.merge.architecture.layout import build

    shapes = {name: info.shape for name, info in checkpoint.tensors.items() if info.floating}
    return build(checkpoint.config, checkpoint.folder, shapes, {}, torch.float32).spots


def _parts(
    spot: Spot, candidates: list[tuple[str, Spot]], parent: Checkpoint
) -> tuple[Part, ...] | None:
    """Return the boxes of the parent's tensors that make up a box of a parameter."""
    parts, covered = [], 0
    for name, other in candidates:
        start = tuple(map(max, spot.start, other.start))
        stop = tuple(map(min, _stop(spot), _stop(other)))
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        if min(size, default=1) > 0:
            parts.append(
                Part(
                    name,
                    parent.tensors[name],
                    other.axes,
                    _minus(start, other.start),
                    size,
                    _minus(start, spot.start),
                    spot.axes,
                )
            )
            covered += prod(size)
    dtypes = {part.info.dtype for part in parts}
    whole = covered == prod(spot.size) and len(dtypes) == 1
    return tuple(parts) if whole else None


def _stop(spot: Spot) -> tuple[int, ...]:
    return tuple(a + n for a, n in zip(spot.start, spot.size, strict=True))


def _minus(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(one, two, strict=True))
