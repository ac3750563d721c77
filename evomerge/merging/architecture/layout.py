"""Where the tensors of a checkpoint lie in the model that transformers builds from them.

transformers renames, stacks, concatenates and transposes weights when it loads them (for example,
the experts of a mixture become one 3-dimensional parameter), and this changes between versions. So
no rule is written down here. Loading a checkpoint of known numbers shows where each tensor goes
(see `probe`); where possible this is done with the first blocks only (see `blocks`). The result is
checked for the whole model: the tensors must fill every parameter exactly.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.blocks import first_blocks
from evomerge.merging.architecture.loading import Loader, weights_of
from evomerge.merging.architecture.probe import Location, find_locations


@dataclass(frozen=True)
class Layout:
    """A model, and where the tensors of its checkpoint lie in its parameters.

    Attributes:
        module: the model in evaluation mode. `build_layout` gives it parameters that share one
            element of memory; whoever uses the model gives them memory and weights. Buffers that
            are not in the checkpoint have their values.
        locations: where each tensor lies, by its name in the checkpoint. A tensor that the model
            does not use (the copy of a tied head, an old buffer) is not listed.
    """

    module: nn.Module
    locations: Mapping[str, Location]


def build_layout(
    data: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Layout:
    """Build a model without weights, and find where the tensors of its checkpoint lie.

    Args:
        data: `config.json` of the model.
        shapes: shape of every floating-point tensor of the checkpoint, by name.
        constants: every other tensor of the checkpoint, by name.
        dtype: dtype of the model's parameters.

    Raises:
        CheckpointError: transformers has no class for the model, the checkpoint lacks weights that
            the model needs, or transformers lays tensors out in a way that `probe` cannot follow.
    """
    loader = Loader.of(data, constants)
    empty = torch.zeros((), dtype=dtype)
    module = loader.load({name: empty.expand(shape) for name, shape in shapes.items()}, dtype)
    locations = _from_first_blocks(data, shapes, constants)
    if locations is None or _uncovered(module, locations):
        locations = find_locations(loader, shapes)
    missing = _uncovered(module, locations)
    if missing:
        raise CheckpointError(
            f"{type(module).__name__} needs the weight {missing!r}, which the checkpoint does not "
            "have (it would be random); the checkpoint is incomplete or of another architecture."
        )
    return Layout(module, locations)


def _from_first_blocks(
    data: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Tensor],
) -> Mapping[str, Location] | None:
    """Find the locations with the first blocks only; None if that is not possible."""
    few = first_blocks(data, shapes)
    if few is None:
        return None
    kept = {name: item for name, item in constants.items() if few.has(name)}
    try:
        return few.extend(find_locations(Loader.of(few.config, kept), few.shapes))
    except CheckpointError:
        return None


def _uncovered(module: nn.Module, locations: Mapping[str, Location]) -> str | None:
    """Return a parameter that the tensors do not fill exactly, or None if they fill all.

    A location that is outside of its parameter counts as a fault of that parameter.
    """
    weights = dict(weights_of(module))
    filled = dict.fromkeys(weights, 0)
    for location in locations.values():
        weight = weights.get(location.parameter)
        if weight is None or not location.lies_in(tuple(weight.shape)):
            return location.parameter
        filled[location.parameter] += prod(location.size)
    parameters = (name for name, _ in module.named_parameters())
    return next((name for name in parameters if filled[name] != weights[name].numel()), None)
