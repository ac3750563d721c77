"""Routers of a mixture that was not trained: one vector for each expert in each layer.

A token goes to the experts whose vectors have the largest products with its hidden state. The
modes are those of mergekit-moe:

- `hidden` (or `hidden_last`): the hidden state that enters the layer at the last token of a prompt,
  mean over the positive prompts, less that over the negative ones, of length 1.
- `hidden_avg`: the same, with the mean over all tokens of a prompt.
- `cheap_embed`: the sum of the embeddings of all tokens of the prompts, in all layers the same.
- `random`: standard normal numbers.
- `uniform_random`: as torch initialises a linear layer, uniform in +-1 / sqrt(hidden size).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from evomerge.errors import RecipeError
from evomerge.merging.backend import load, tokenizer_of
from evomerge.merging.kernels.compiled import Array
from evomerge.merging.kernels.torch_views import as_tensor
from evomerge.merging.mixtures.mixture import Mixture
from evomerge.merging.tensors.adapters import adapter_patches
from evomerge.merging.tensors.plan import SourceTensor
from evomerge.merging.tensors.reader import TensorReader
from evomerge.models.checkpoint import Checkpoint


def make_routers(mixture: Mixture, base: Checkpoint, seed: int) -> Array:
    """Return the vectors of all experts, of the shared one last: float32 (layers, experts, hidden).

    Args:
        seed: of the random modes; others do not depend on it.

    Raises:
        CheckpointError: transformers cannot load the base or its tokenizer.
        RecipeError: a prompt has no tokens.
    """
    embedding = base.embedding
    assert embedding is not None
    layers, hidden = len(base.decoder_stack), base.tensors[embedding].shape[1]
    size = (layers, len(mixture.every), hidden)
    if not mixture.needs_prompts:
        draw = np.random.default_rng(seed)
        if mixture.gates == "random":
            return draw.standard_normal(size, dtype=np.float32)
        bound = hidden**-0.5
        return draw.uniform(-bound, bound, size).astype(np.float32)
    tokens = _tokens_of(tokenizer_of(base))
    if mixture.gates == "cheap_embed":
        reader = TensorReader({base.reference: base}, adapter_patches({base.reference: base}))
        weights = as_tensor(reader.read(SourceTensor(base.reference, embedding)))
        return np.broadcast_to(_by_embeddings(mixture, weights, tokens), size)
    return _by_hidden_states(mixture, load(base, "cpu"), tokens)


def _tokens_of(tokenizer: Any) -> Callable[[str], Any]:
    """Return the function from a prompt to its token ids, (1, tokens)."""

    def tokens(prompt: str) -> Any:
        text = (tokenizer.bos_token or "") + prompt
        found = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
        if not found.numel():
            raise RecipeError(
                f"The prompt {prompt!r} has no token for the tokenizer of the base, so no router "
                "can be made of it; give another one."
            )
        return found

    return tokens


def _by_embeddings(mixture: Mixture, weights: Any, tokens: Callable[[str], Any]) -> Array:
    def direction(prompts: Sequence[str]) -> Array:
        every = (weights[tokens(prompt)[0]].float().sum(0).numpy() for prompt in prompts)
        return unit(np.sum([*every], axis=0))

    return np.stack(
        [
            unit(direction(item.positive) - (direction(item.negative) if item.negative else 0))
            for item in mixture.every
        ]
    )


def _by_hidden_states(mixture: Mixture, model: Any, tokens: Callable[[str], Any]) -> Array:
    import torch

    def states(prompts: Sequence[str]) -> Array:
        """Return the mean over prompts of the state that enters each layer, (layers, hidden)."""
        found = []
        for prompt in prompts:
            with torch.no_grad():
                told = model(input_ids=tokens(prompt), output_hidden_states=True, use_cache=False)
            every = torch.stack(told.hidden_states[:-1])[:, 0].float()
            found.append(every.mean(1) if mixture.gates == "hidden_avg" else every[:, -1])
        mean: Array = torch.stack(found).mean(0).numpy()
        return mean

    vectors = [
        unit(states(item.positive) - (states(item.negative) if item.negative else 0))
        for item in mixture.every
    ]
    return np.stack(vectors, axis=1)


def unit(vectors: Array) -> Array:
    """Return vectors (the last axis) with length 1; one of length 0 stays."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    result: Array = (vectors / np.maximum(lengths, 1e-8)).astype(np.float32)
    return result


def largest_cosines(routers: Array, experts: int) -> Array:
    """Return for each layer the largest cosine between the vectors of two of the first experts."""
    vectors = unit(routers[:, :experts])
    cosines = vectors @ vectors.transpose(0, 2, 1)
    result: Array = np.max(cosines - 2 * np.eye(experts, dtype=np.float32), axis=(1, 2))
    return result
