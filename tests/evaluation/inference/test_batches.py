"""Batches: every row once, within the limits, with the lowest cost; what a backward pass keeps."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from evomerge import zoo
from evomerge.evaluation.inference.rows import (
    Batching,
    batching,
    checkpointing,
    kept_bytes,
    largest_batch,
    needs_checkpointing,
)


def limits(tokens, rows, overhead):
    return Batching(tokens, rows, overhead=overhead, generated=tokens)


SHAPES = [
    (576, 1536, 30, 49152, torch.float32),
    (640, 2048, 18, 262144, torch.float32),
    (4096, 14336, 32, 32000, torch.bfloat16),
]


@pytest.mark.parametrize(("width", "inner", "layers", "vocabulary", "dtype"), SHAPES)
def test_a_batch_takes_a_few_gib_on_a_cpu_and_its_share_of_a_gpu(
    width, inner, layers, vocabulary, dtype
):
    """One token a row is too little for a pass that reads all weights: there rows must be many."""
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": layers}
    config = LlamaConfig(**sizes, vocab_size=vocabulary, num_attention_heads=8)
    model = SimpleNamespace(config=config, dtype=dtype, device=torch.device("cpu"))
    assert batching(model, "auto").generated >= 58 * 54  # prompts of 30 tokens and 24 new ones
    assert largest_batch(config.to_dict(), dtype.itemsize) < 6 * 2**30
    model.device = torch.device("meta")  # whose memory is unknown: 8 GiB
    tokens = batching(model, 7).tokens
    assert batching(model, 7).rows == 7 and tokens >= 256
    assert tokens * (12 * vocabulary + 2 * dtype.itemsize * width * layers) <= 2**31


@given(
    st.lists(st.integers(1, 50), min_size=1, max_size=40),
    st.integers(1, 200),
    st.one_of(st.none(), st.integers(1, 6)),
)
def test_batches_hold_every_row_once_and_keep_their_bounds(lengths, tokens, rows):
    groups = limits(tokens, rows, overhead=10).cut(lengths)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        area = len(group) * max(lengths[index] for index in group)
        assert len(group) == 1 or area <= tokens
        assert rows is None or len(group) <= rows


@given(st.lists(st.integers(1, 50), min_size=1, max_size=9))
def test_no_cut_into_neighbours_of_like_length_is_cheaper(lengths):
    batching = limits(10**6, None, overhead=20)
    ordered = sorted(lengths, reverse=True)

    def cheapest(start):
        ends = range(start + 1, len(ordered) + 1)
        costs = (ordered[start] * (end - start) + 20 + cheapest(end) for end in ends)
        return min(costs, default=0)

    cost = sum(max(lengths[i] for i in g) * len(g) + 20 for g in batching.cut(lengths))
    assert cost == cheapest(0)


TOKENS = torch.arange(2 * 64).reshape(2, 64) % 50


def small_llama(dtype):
    torch.manual_seed(0)
    sizes = {"hidden_size": 96, "intermediate_size": 256, "num_hidden_layers": 6}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=60, **sizes, **heads)).to(dtype).eval()


def kept(model):
    """Return how many bytes the forward pass keeps for the backward pass, without weights."""
    own = {parameter.untyped_storage()._cdata for parameter in model.parameters()}
    alive = {}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            alive[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(input_ids=TOKENS, use_cache=False)
    return sum(storage.nbytes() for storage in alive.values())


def gradient(model):
    model.zero_grad()
    model(input_ids=TOKENS, use_cache=False).logits.float().square().mean().backward()
    return torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_checkpointing_gives_the_same_bits_and_keeps_a_fraction_of_what_we_say(dtype):
    model = small_llama(dtype)
    whole, bytes_kept = gradient(model), kept(model)
    said = TOKENS.numel() * kept_bytes(model.config.to_dict(), dtype.itemsize)
    assert 0.75 < bytes_kept / said < 1.33
    with checkpointing(model):
        assert torch.equal(gradient(model), whole)
        assert kept(model) < bytes_kept / 4
    assert not any(module.training for module in model.modules())
    assert kept(model) == bytes_kept


def test_a_layer_drops_nothing_out_and_checkpointing_is_for_half_of_the_memory(monkeypatch):
    config = AutoModelForCausalLM.from_pretrained(zoo.path("base")).config
    config.attention_dropout = 0.5
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    whole = gradient(model)
    with checkpointing(model):
        assert torch.equal(gradient(model), whole)
    each = kept_bytes(model.config.to_dict(), 4)
    monkeypatch.setattr("evomerge.evaluation.inference.rows.total_memory", lambda: 100 * each)
    assert not needs_checkpointing(model, 50)
    assert needs_checkpointing(model, 51)
