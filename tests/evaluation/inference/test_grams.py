"""Gram matrices of activations: those of the inputs that the layers get, text by text."""

from __future__ import annotations

import pytest
import torch
from tiny import CONFIGS, randomize
from transformers import AutoModelForCausalLM

from evomerge.evaluation.inference.grams import gram_matrices, input_axis, linear_layers

TEXTS = [(5, 6, 7), (8,), (9, 10, 11), (12, 13, 14, 15, 16), (7, 7, 7)]


def model_of(architecture: str) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_config(CONFIGS[architecture]()).eval()
    randomize(model, 1)
    return model


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_they_are_sums_over_all_tokens_divided_by_their_number(architecture: str) -> None:
    model = model_of(architecture)
    layers = linear_layers(model)
    found = gram_matrices(model, TEXTS, layers)
    seen: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    for name, layer in layers.items():
        layer.register_forward_pre_hook(lambda _, x, n=name: seen[n].append(x[0][0].double()))
    with torch.no_grad():
        for text in TEXTS:
            model(input_ids=torch.tensor([text]), use_cache=False)
    for name, layer in layers.items():
        rows = torch.cat(seen[name])
        assert len(rows) == 15
        assert found[name].dtype == torch.float32
        assert found[name].shape == 2 * (layer.weight.shape[input_axis(layer)],)
        expected = (rows.T @ rows / 15).float()
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_layers_with_one_input_have_equal_bits_and_hooks_are_gone() -> None:
    model = model_of("llama")
    found = gram_matrices(model, TEXTS, linear_layers(model))
    block = "model.layers.1."
    query, key, out = (found[f"{block}self_attn.{name}_proj"] for name in "qko")
    assert query.equal(key) and not query.equal(out)
    assert found[f"{block}mlp.gate_proj"].equal(found[f"{block}mlp.up_proj"])
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_a_layer_that_no_token_reaches_has_zeros() -> None:
    model = model_of("llama")
    aside = torch.nn.Linear(3, 2)
    found = gram_matrices(model, TEXTS, {**linear_layers(model), "aside": aside})
    assert found["aside"].equal(torch.zeros(3, 3))
