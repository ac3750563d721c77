"""Identity layers, which complete a model to the fixed depth of an engine.

An engine has a fixed number of layers, but paths differ in it. All weights of an identity layer are
zero, so that its branches add zero to the hidden state; whether this holds for an architecture is
tested on a small model of it (`merging/architecture/identity.py`). Identity layers come before
the model's own. There the hidden state is the embedding, which adding zero leaves as it is in any
dtype. Behind a layer it would not: vLLM normalises the float32 sum of the hidden state and the
layer's output, and rounds this sum only where it is passed on.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from torch import Tensor

from evomerge.models.stacks import Stack, find_stacks, is_other_modality

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Names of tensors -> shapes."""


def with_identity_layers(state: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Return the weights of a model, with identity layers before its own.

    Args:
        state: the weights, with their names in a checkpoint.
        shapes: those of a model of the same architecture with at least as many layers.

    Returns:
        the weights with as many layers as `shapes` has; new ones take no memory. They are returned
        as they are if there is nothing to add, or if their names have nothing in common.
    """
    deep, own = _language(shapes), _language(state)
    if deep is None or own is None or deep.prefix != own.prefix or len(deep) <= len(own):
        return dict(state)
    added = len(deep) - len(own)
    moved = {
        own.name(layer, rest): own.name(layer + added, rest)
        for layer, block in enumerate(own.blocks)
        for rest in block
    }
    completed = {moved.get(name, name): tensor for name, tensor in state.items()}
    for layer in range(added):
        for rest in own.blocks[0]:
            name = own.name(layer, rest)
            if name in shapes:
                zero = state[own.name(0, rest)].new_zeros(())
                completed[name] = zero.expand(shapes[name])
    return completed


def _language(names: Shapes | Mapping[str, Tensor]) -> Stack | None:
    """Return the largest stack of layers that is not of another modality."""
    stacks = find_stacks(names)
    return next((stacks[prefix] for prefix in stacks if not is_other_modality(prefix)), None)
