"""A deep model completed by identity layers computes what the shallow one does, bit for bit."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from evomerge.compat.transformers import checkpoint_weights
from evomerge.evaluation.inference.vllm import with_identity_layers

TEXT = torch.tensor([[1, *range(5, 60, 3)]])


def deeper(model: Any, layers: int) -> Any:
    """Return a random model of the same architecture with another number of layers."""
    config = copy.deepcopy(model.config)
    config.num_hidden_layers = layers
    config.layer_types = ["full_attention"] * layers
    return type(model)(config).to(model.dtype).eval()


def shapes_of(model: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in checkpoint_weights(model).items()}


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3", "gpt_neox"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_those_of_the_model_alone(
    make_model: Any, architecture: str, dtype: torch.dtype
) -> None:
    model = make_model(architecture, seed=2)
    deep = deeper(model, 5)
    own = {name: tensor.to(dtype) for name, tensor in checkpoint_weights(model).items()}
    state = with_identity_layers(own, shapes_of(deep))
    assert {name: tuple(tensor.shape) for name, tensor in state.items()} == shapes_of(deep)
    one, other = (
        type(model).from_pretrained(None, config=item.config, state_dict=weights, dtype=dtype)
        for item, weights in ((model, own), (deep, state))
    )
    with torch.inference_mode():
        assert torch.equal(other.eval()(TEXT).logits, one.eval()(TEXT).logits)


def test_the_weights_of_the_model_are_not_copied_and_zeros_take_no_memory(llama: Any) -> None:
    own = dict(checkpoint_weights(llama))
    state = with_identity_layers(own, shapes_of(deeper(llama, 4)))
    name = "model.layers.{}.mlp.down_proj.weight"
    assert state[name.format(1)] is own[name.format(0)]
    assert state[name.format(0)].untyped_storage().nbytes() == 4
    assert state["lm_head.weight"] is own["lm_head.weight"]


def test_a_model_that_is_as_deep_or_deeper_is_left_as_it_is(llama: Any) -> None:
    own = dict(checkpoint_weights(llama))
    for layers in (3, 2):
        assert with_identity_layers(own, shapes_of(deeper(llama, layers))) == own
