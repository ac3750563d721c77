"""Gram matrices of the inputs of a model's linear layers: X^T X over all tokens that it reads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.errors import CheckpointError
from evomerge.evaluation.inference.quiet import quiet

_TOKENS = 4096
"""Largest number of tokens in a batch, if a single text has no more."""


def linear_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the linear layers of a model by name, also those of GPT-2 (`Conv1D`)."""
    from transformers.pytorch_utils import Conv1D

    return {
        name: layer
        for name, layer in model.named_modules()
        if isinstance(layer, (nn.Linear, Conv1D))
    }


def input_axis(layer: nn.Module) -> int:
    """Return the axis of a linear layer's weight that its inputs are along."""
    return 1 if isinstance(layer, nn.Linear) else 0


def gram_matrices(
    model: Any, texts: Sequence[Sequence[int]], layers: Mapping[str, nn.Module]
) -> dict[str, Tensor]:
    """Run a model over texts and return the Gram matrix of the inputs of each layer, by its name.

    A matrix is float32, on the CPU, and divided by the number of tokens of all texts. That of a
    layer which no token reaches is 0. Only texts of one length share a batch, so there is no
    padding.

    Args:
        model: a causal language model of transformers.
        texts: the token ids of each text, at least one.
        layers: linear layers of the model.

    Raises:
        CheckpointError: an input is NaN or infinite.
    """
    sums = {}
    for name, layer in layers.items():
        weight: Any = layer.weight
        width = weight.shape[input_axis(layer)]
        sums[name] = torch.zeros(width, width, dtype=torch.float32, device=weight.device)
    with torch.inference_mode(), quiet(), _adding(layers, sums):
        for batch in _batches(texts):
            model(input_ids=torch.tensor(batch, device=model.device), use_cache=False)
    count = sum(map(len, texts))
    for name, total in sums.items():
        if not bool(torch.isfinite(total).all()):
            raise CheckpointError(
                f"The inputs of layer {name!r} are NaN or infinite, or their squares are; run the "
                "model in another dtype, or check its weights."
            )
        sums[name] = (total / count).cpu()
    return sums


def _batches(texts: Sequence[Sequence[int]]) -> Iterator[list[list[int]]]:
    """Yield texts of one length, at most `_TOKENS` tokens of them together."""
    for length, group in groupby(sorted(map(list, texts), key=len), key=len):
        alike = list(group)
        rows = max(_TOKENS // max(length, 1), 1)
        yield from (alike[i : i + rows] for i in range(0, len(alike), rows))


@contextmanager
def _adding(layers: Mapping[str, nn.Module], sums: Mapping[str, Tensor]) -> Iterator[None]:
    """Add the products of the layers' inputs to the sums while the block runs."""
    last: list[Tensor] = []  # an input and its product: query, key and value share an input

    def hook(name: str) -> Any:
        def add(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
            found = inputs[0]
            if not last or last[0] is not found:
                rows = found.flatten(0, -2).float()
                last[:] = [found, rows.T @ rows]
            sums[name].add_(last[1].to(sums[name].device))

        return add

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
