"""Giving parents of one architecture the tensor names of the host.

Checkpoints of one architecture can have different tensors: for example, some versions of
transformers save the experts of a mixture one by one, others save them in one tensor. No rule about
this is written down here. transformers shows where the tensors of both checkpoints lie in its model
(see `layout`); from this follows which boxes (sub-tensors) of the parent's stored tensors make up
each tensor of the host.
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
    from evomerge.merging.architecture.probe import Location


def with_host_names(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, Checkpoint]:
    """Return the parents, each with tensors that have the names and shapes of the host's.

    A parent is unchanged if its names already correspond to the host's (up to a prefix), if it has
    another architecture, or if the two cannot be related through transformers' model.
    """
    return {name: _renamed(checkpoints[host], item) for name, item in checkpoints.items()}


def _renamed(host: Checkpoint, parent: Checkpoint) -> Checkpoint:
    same = parent.config.get("architectures") == host.config.get("architectures")
    if parent is host or not same or has_counterparts(host, parent):
        return parent
    from evomerge.merging.architecture.layout import layout_of

    try:
        theirs, own = (layout_of(item).locations for item in (host, parent))
    except CheckpointError:
        return parent
    by_parameter: dict[str, list[tuple[str, Location]]] = {}
    for name, location in own.items():
        by_parameter.setdefault(location.parameter, []).append((name, location))
    tensors: dict[str, TensorInfo] = {}
    for name, location in theirs.items():
        found = _parts(location, by_parameter.get(location.parameter, []), parent)
        if found is None:
            return parent
        dtype = found[0].info.dtype
        tensors[name] = TensorInfo(dtype, host.tensors[name].shape, Path(), 0, 0, found)
    tensors |= {name: info for name, info in parent.tensors.items() if parent.module_of(name)}
    return replace(parent, tensors=tensors, original=parent)


def _parts(
    location: Location, candidates: list[tuple[str, Location]], parent: Checkpoint
) -> tuple[Part, ...] | None:
    """Return the boxes of the parent's tensors that make up one tensor of the host."""
    parts, covered = [], 0
    for name, other in candidates:
        start = tuple(map(max, location.start, other.start))
        stop = tuple(map(min, location.stop, other.stop))
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        if min(size, default=1) > 0:
            parts.append(
                Part(
                    name,
                    parent.tensors[name],
                    other.axes,
                    _minus(start, other.start),
                    size,
                    _minus(start, location.start),
                    location.axes,
                )
            )
            covered += prod(size)
    dtypes = {part.info.dtype for part in parts}
    whole = covered == prod(location.size) and len(dtypes) == 1
    return tuple(parts) if whole else None


def _minus(one: tuple[int, ...], two: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(a - b for a, b in zip(one, two, strict=True))
