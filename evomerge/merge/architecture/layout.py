"""Where every tensor of a checkpoint lies in the model that transformers builds from it.

transformers renames, stacks, concatenates and transposes weights as it loads them (the experts of
a mixture become one 3-dimensional parameter, for example), differently from version to version.
None of that is written down here: it is found out (see `probe`), on the first blocks of a model
where that is enough (see `blocks`), and checked on the whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.merge.architecture.blocks import first_blocks
from evomerge.merge.architecture.loading import Loader, weights_of
from evomerge.merge.architecture.probe import Spot, find_spots


@dataclass(frozen=True)
class Skeleton:
    """A model whose parameters are placeholders, and where the checkpoint's tensors belong.

    Attributes:
        module: the model in evaluation mode. Parameters that the checkpoint fills are
            placeholders without memory of their own; buffers are real.
        spots: by tensor name. A tensor that the model does not use (a tied head's copy, an old
            buffer) has none.
    """

    module: nn.Module
    spots: Mapping[str, Spot]


def build(
    data: Mapping[str, Any],
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> Skeleton:
    """Build a model and find where its checkpoint's tensors lie.

    Args:
        data: `config.json` of the model.
        folder: where its generation config is, if it has one.
        shapes: shape of every floating tensor of the checkpoint, by name.
        constants: every other tensor.
        dtype: dtype that the model is loaded in.

    Raises:
        CheckpointError: transformers has no class for it, the model needs weights that the
            checkpoint does not have, or lays them out in a way that cannot be followed.
    """
    loader = Loader.of(data, constants)
    empty = torch.zeros((), dtype=dtype)
    module = loader.load({name: empty.expand(shape) for name, shape in shapes.items()}, dtype)
    spots = _from_first_blocks(data, shapes, constants)
    if spots is None or _uncovered(module, spots):
        spots = find_spots(loader, shapes)
    missing = _uncovered(module, spots)
    if missing:
        raise CheckpointError(
            f"{type(module).__name__} needs the weight {missing!r}, which the checkpoint does not "
            "have (it would be random); it is incomplete or of another architecture."
        )
    if (folder / "generation_config.json").is_file():
        generation = transformers.GenerationConfig.from_pretrained(folder)
        module.generation_config = generation  # type: ignore[assignment]
    return Skeleton(module, spots)


def _from_first_blocks(
    data: Mapping[str, Any],
    shapes: Mapping[str, tuple[int, ...]],
    constants: Mapping[str, Tensor],
) -> Mapping[str, Spot] | None:
    """Find the spots on a model of few blocks, which takes a fraction of the memory."""
    few = first_blocks(data, shapes)
    if few is None:
        return None
    kept = {name: item for name, item in constants.items() if few.has(name)}
    try:
        return few.extend(find_spots(Loader.of(few.config, kept), few.shapes))
    except CheckpointError:
        return None


def _uncovered(module: nn.Module, spots: Mapping[str, Spot]) -> str | None:
    """Return a parameter that the spots do not fill, or None; spots must lie inside of theirs."""
    weights = dict(weights_of(module))
    filled = dict.fromkeys(weights, 0)
    for spot in spots.values():
        weight = weights.get(spot.parameter)
        if weight is None or not spot.lies_in(tuple(weight.shape)):
            return spot.parameter
        filled[spot.parameter] += prod(spot.size)
    parameters = (name for name, _ in module.named_parameters())
    return next((name for name in parameters if filled[name] != weights[name].numel()), None)
