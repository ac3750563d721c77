"""Checkpointing keeps less and gives the same bits; what a pass keeps is about what we say."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from evomerge import zoo
from evomerge.evaluation.inference import batches
from evomerge.evaluation.inference.batches import checkpointing, kept_bytes, needs_checkpointing

TOKENS = torch.arange(2 * 64).reshape(2, 64) % 50


def small_llama(dtype: torch.dtype):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=60,
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=6,
        num_attention_heads=6,
        num_key_value_heads=2,
    )
    return LlamaForCausalLM(config).to(dtype).eval()


def kept(model) -> int:
    """Return how many bytes the forward pass keeps for the backward pass, without weights."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    sizes: dict[int, int] = {}
    alive = []

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=TOKENS, use_cache=False)
    return sum(sizes.values())


def gradient(model) -> torch.Tensor:
    model.zero_grad()
    model(input_ids=TOKENS, use_cache=False).logits.float().square().mean().backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pass_keeps_about_as_much_as_we_say(dtype):
    model = small_llama(dtype)
    said = TOKENS.numel() * kept_bytes(model.config.to_dict(), dtype.itemsize)
    assert 0.75 < kept(model) / said < 1.33


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_gives_the_same_bits_and_keeps_a_fraction(dtype):
    model = small_llama(dtype)
    whole, bytes_kept = gradient(model), kept(model)
    with checkpointing(model):
        assert torch.equal(gradient(model), whole)
        assert kept(model) < bytes_kept / 4
    assert not any(module.training for module in model.modules())
    assert kept(model) == bytes_kept


def test_a_layer_drops_nothing_out_while_its_inputs_are_kept():
    config = AutoModelForCausalLM.from_pretrained(zoo.path("base")).config
    config.attention_dropout = 0.5
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    whole = gradient(model)
    with checkpointing(model):
        assert torch.equal(gradient(model), whole)


def test_it_is_needed_if_activations_take_half_of_the_memory(monkeypatch):
    model = small_llama(torch.float32)
    each = kept_bytes(model.config.to_dict(), 4)
    monkeypatch.setattr(batches, "total_memory", lambda: 100 * each)
    assert not needs_checkpointing(model, 50)
    assert needs_checkpointing(model, 51)
