"""The loop that generates greedily."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.evaluate.inference.generation import Prompt, continue_greedily


class Nothing:
    """Stands for stop sequences that never come."""

    def __call__(self, tokens: Any) -> bool:
        return False


def test_the_head_reads_contiguous_memory() -> None:
    config = LlamaConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        eos_token_id=None,
    )
    model = LlamaForCausalLM(config).requires_grad_(False).train(False)
    seen: list[bool] = []
    forward = model.lm_head.forward

    def record(states: torch.Tensor) -> torch.Tensor:
        seen.append(states.is_contiguous())
        return forward(states)

    model.lm_head.forward = record
    prompts = [Prompt((1, 2, 3), (), 3), Prompt((4, 5), (), 3)]
    assert [len(new) for new in continue_greedily(model, prompts, Nothing(), 0)] == [3, 3]  # type: ignore[arg-type]
    assert len(seen) == 3
    assert all(seen)
    assert not model.lm_head._forward_pre_hooks
