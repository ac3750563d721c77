"""Checking that transformers builds the model of a parent's config, and that its weights fit.

The model is built on the device `meta`, where weights have a shape and no memory. So a mistake in
`config.json` is found before a search begins, not when its first model is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any

from torch import nn
from torch.nn.modules import module as torch_module

from evomerge.errors import CheckpointError, printable
from evomerge.merging.architecture.depth import LAYER_COUNTS
from evomerge.merging.architecture.loading import Faults, Loader
from evomerge.models.checkpoint import Checkpoint

MOST_LAYERS = 10_000
"""Largest number of layers that a config may name."""

_LARGER = 4  # times the weights on disk that a model may be: a tied head is on disk only once
_SPARE = 10_000_000  # elements of a model beside that, for models that are tiny

_LONGEST = 400  # characters of a message of transformers

_SIZES = re.compile(r"^(num|n|d)_|_(size|dim|heads|layers)$")
"""Keys of configs with a number that is at least 1."""


def check_buildable(checkpoint: Checkpoint, config: Mapping[str, Any]) -> None:
    """Check that transformers builds a parent's model, and that its weights fit into it.

    It is also run on a few tokens, as far as this is possible without weights. Tensors that the
    model has no place for are allowed, since old checkpoints hold buffers, but not whole blocks of
    them. `config` is the parent's `config.json`, as the merged model has it.

    Raises:
        CheckpointError: it cannot be built or run, a weight is missing, or one has another shape.
    """
    stored, subject = checkpoint.original or checkpoint, f"Parent {checkpoint.reference!r}"
    # A config class may make lists of this length.
    for section in (config, *(item for item in config.values() if isinstance(item, Mapping))):
        for key in LAYER_COUNTS:
            count = section.get(key)
            if isinstance(count, (int, float)) and not 0 <= count <= MOST_LAYERS:
                raise CheckpointError(
                    f"{subject}: config.json has {key!r} {count:.6g}; allowed are 1 to "
                    f"{MOST_LAYERS:,}; {_fix([key])}."
                )
    shapes = {name: info.shape for name, info in stored.tensors.items()}
    try:
        with _no_larger_than(_LARGER * checkpoint.parameters + _SPARE):
            faults = Loader.of(config, {}).find_faults(shapes, run=True)
    except CheckpointError as error:
        reason = printable(str(error).rstrip("."), _LONGEST)
        raise CheckpointError(
            f"{subject}: {reason}; {_fix(_named(checkpoint, reason))}."
        ) from error
    _check_faults(checkpoint, stored, faults)


def _check_faults(checkpoint: Checkpoint, stored: Checkpoint, faults: Faults) -> None:
    """Raise `CheckpointError` for weights that are missing, or that have another shape."""
    for tensor, (own, wanted) in sorted(faults.mismatched.items()):
        keys = [
            key
            for key, value in checkpoint.text_config.items()
            if _is_count(value) and value in wanted and value not in own and "_id" not in key
        ]
        raise CheckpointError(
            f"Parent {checkpoint.reference!r}: tensor {tensor!r} has the shape {list(own)}, but "
            f"the model of config.json needs {list(wanted)}; {_fix(keys)}."
        )
    for prefix, stack in stored.language.items():
        built = [
            layer
            for layer, block in enumerate(stack.blocks)
            if not all(stack.name(layer, suffix) in faults.unexpected for suffix in block)
        ]
        if len(built) < len(stack):
            keys = [key for key in LAYER_COUNTS if key in checkpoint.text_config]
            raise CheckpointError(
                f"Parent {checkpoint.reference!r} has weights of {len(stack)} blocks in {prefix}, "
                f"but the model of config.json has {len(built)}; {_fix(keys)}."
            )
    if faults.missing:
        raise CheckpointError(
            f"Parent {checkpoint.reference!r} lacks the weight {min(faults.missing)!r}, which "
            f"the model of its config.json needs (it would be random); {_fix([])}, and the weight "
            "files too."
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


def _named(checkpoint: Checkpoint, reason: str) -> list[str]:
    """Return the keys of the config that a message is about: it names them, or has their values.

    A message about zero or about a negative number is about the sizes that are below 1.
    """
    words = set(re.findall(r"\w+", reason)) - {"model_type"}
    return [
        key
        for key, value in checkpoint.text_config.items()
        if key in words
        or (isinstance(value, str) and repr(value) in reason and key != "model_type")
        or (key in LAYER_COUNTS and "larger" in words and value != len(checkpoint.decoder_stack))
        or (_is_count(value) and value > 999 and str(value) in words)
        or (_is_count(value) and value < 1 and _SIZES.search(key))
    ]


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _fix(keys: Sequence[str]) -> str:
    """Return what to do, with the keys of the config that may be wrong."""
    copied = "copy config.json from the model that it was made from"
    return f"correct `{'`, `'.join(keys)}`, or {copied}" if keys else copied
