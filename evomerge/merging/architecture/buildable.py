"""Checking that transformers builds the model of a parent's config, and that its weights fit.

The model is built on the device `meta`, where weights have a shape and no memory. So a mistake in
`config.json` is found before a search begins, not when its first model is built.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from evomerge.errors import CheckpointError, printable
from evomerge.merging.architecture.depth import LAYER_COUNTS
from evomerge.merging.architecture.loading import Loader
from evomerge.models.checkpoint import Checkpoint

MOST_LAYERS = 10_000
"""Largest number of layers that a config may name."""

_LARGER = 4  # times the weights on disk that a model may be: a tied head is on disk only once
_SPARE = 10_000_000  # elements of a model beside that, for models that are tiny

_LONGEST = 400  # characters of a message of transformers


def check_buildable(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Check that transformers builds a parent's model, and that its weights fit into it.

    Tensors that the model has no place for are allowed, since old checkpoints hold buffers, but not
    whole blocks of them. `config` is the parent's `config.json`, as the merged model has it.

    Raises:
        CheckpointError: it cannot be built, a weight is missing, or one has another shape.
    """
    stored = checkpoint.original or checkpoint
    try:
        _check_counts(config)
        with _no_larger_than(_LARGER * checkpoint.parameters + _SPARE):
            _check_weights(stored, config)
    except CheckpointError as error:
        reason = printable(str(error).rstrip("."), _LONGEST)
        raise CheckpointError(
            f"Parent {checkpoint.reference!r}: {reason}; copy config.json from the model that it "
            "was made from."
        ) from error


def _check_counts(config: Mapping[str, Any]) -> None:
    """Check the numbers of layers, since a config class may make lists of this length."""
    for section in (config, *(item for item in config.values() if isinstance(item, Mapping))):
        for key in LAYER_COUNTS:
            count = section.get(key)
            if isinstance(count, (int, float)) and not 0 <= count <= MOST_LAYERS:
                raise CheckpointError(
                    f"config.json has {key!r} {count:.6g}; allowed are 1 to {MOST_LAYERS:,}"
                )


def _check_weights(stored: Checkpoint, config: Mapping[str, Any]) -> None:
    shapes = {name: info.shape for name, info in stored.tensors.items()}
    faults = Loader.of(config, {}).find_faults(shapes)
    for name, (own, wanted) in sorted(faults.mismatched.items()):
        raise CheckpointError(
            f"tensor {name!r} has the shape {list(own)}, but the model of config.json needs "
            f"{list(wanted)}"
        )
    for prefix, stack in stored.language.items():
        for layer, block in enumerate(stack.blocks):
            if faults.unexpected.issuperset(stack.name(layer, suffix) for suffix in block):
                raise CheckpointError(
                    f"there are weights of {len(stack)} blocks in {prefix}, but the model of "
                    f"config.json has no block {layer}"
                )
    if faults.missing:
        raise CheckpointError(
            f"it lacks the weight {min(faults.missing)!r}, which the model of its config.json "
            "needs (it would be random)"
        )


@contextmanager
def _no_larger_than(elements: int) -> Iterator[None]:
    """Raise `ValueError` in the block as soon as a model has more elements than this."""
    total = 0

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal total
        total += 0 if parameter is None else max(1, prod(parameter.shape))
        if parameter is not None and total > elements:
            raise ValueError(
                f"the model is much larger than its weights: {type(module).__name__}.{name} has "
                f"the shape {list(parameter.shape)}"
            )

    hook = torch_module.register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()
