"""Whether an engine of a fixed depth can serve paths of other depths in an architecture.

The engine completes a shorter path by layers whose weights are all zero. For this, such a layer
must return its input, bit for bit, and a layer must compute the same at every position. The configs
show whether layers are of several kinds; the rest is tested on a small model with random weights.
"""

import json
from collections.abc import Mapping
from functools import lru_cache

import torch

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.depth import per_layer
from evomerge.merging.architecture.loading import weights_of
from evomerge.merging.architecture.miniature import ArchitectureError, Miniature, language_config
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap


def check_identity_layers(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Raise `CheckpointError` unless layers do the same at any position, and nothing if zero."""
    stack = checkpoints[host].decoder_stack.prefix
    try:
        _check_kinds(checkpoints, host, stack)
        _check_miniature(language_config(checkpoints[host]), stack.rpartition(".")[2])
    except ArchitectureError as error:
        raise CheckpointError(
            "`evaluation.backend` is 'vllm', whose engine has a fixed depth, and paths through "
            f"{host!r} cannot be completed to it: {error}; use the backend 'hf'."
        ) from None


def has_fixed_layers(checkpoints: Mapping[str, Checkpoint], host: str) -> bool:
    """Whether all parents have as many layers as the host, with the same settings of layers."""
    stack = checkpoints[host].decoder_stack.prefix
    lists = [per_layer(item, stack) for item in checkpoints.values()]
    depths = {len(item.decoder_stack) for item in checkpoints.values()}
    return len(depths) == 1 and all(item == lists[0] for item in lists)


def _check_kinds(checkpoints: Mapping[str, Checkpoint], host: str, stack: str) -> None:
    """Check that all layers have the same entries in the config's lists, and the same tensors."""
    entries: dict[str, dict[str, None]] = {}
    tensors: dict[frozenset[tuple[str, tuple[int, ...]]], None] = {}
    for checkpoint in checkpoints.values():
        for key, values in per_layer(checkpoint, stack).items():
            entries.setdefault(key, {}).update(dict.fromkeys(map(json.dumps, values)))
        fit = TensorNameMap(checkpoints[host], checkpoint)
        for layer in range(len(fit.stacks[stack])):
            names = {it: fit.inside(stack, layer, it) for it in fit.block(stack, layer, layer)}
            shapes = ((it, checkpoint.tensors[name].shape) for it, name in names.items() if name)
            tensors.setdefault(frozenset(shapes))
    for key, texts in entries.items():
        if len(texts) > 1:
            raise ArchitectureError(f"its layers differ in {key} ({', '.join(texts)})")
    if len(tensors) > 1:
        one, other = list(tensors)[:2]
        raise ArchitectureError(f"its layers differ in the tensor {min(one ^ other)[0]}")


@lru_cache(maxsize=16)
def _check_miniature(config: str, stack: str) -> None:
    """Test an architecture on a small model."""
    with torch.random.fork_rng(devices=[]), torch.inference_mode():
        torch.manual_seed(0)
        miniature = Miniature(json.loads(config), stack)
        first, *others = miniature.layers
        state = miniature.random_state()
        expected, weights = first.run(state), first.module.state_dict()
        for other in others:
            other.module.load_state_dict(weights)
            if not torch.equal(other.run(state), expected):
                raise ArchitectureError("its layers do different things at different positions")
        for _, weight in weights_of(first.module):
            weight.zero_()
        if not torch.equal(first.run(state), state):
            raise ArchitectureError("its layers are no identities if their weights are zero")
