"""The loop that generates greedily."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from evomerge.evaluation.inference.batches import Batching
from evomerge.evaluation.inference.generation import Prompt, continue_prompts, make_batches


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
    assert [len(new) for new in continue_prompts(model, prompts, Nothing(), 0)] == [3, 3]  # type: ignore[arg-type]
    assert len(seen) == 3
    assert all(seen)
    assert not model.lm_head._forward_pre_hooks


def test_no_batch_is_started_to_save_padding_if_it_takes_many_passes() -> None:
    """Prompts of 10 and 20 tokens: apart, they need no padding, but twice as many passes."""
    lengths, batching = (
        [10] * 20 + [20] * 20,
        Batching(1024, None, overhead=48, generated=4096, kept=1024),
    )

    def sizes(limit: int) -> list[int]:
        prompts = [Prompt((1,) * length, ("\n",), limit) for length in lengths]
        return [len(batch) for batch in make_batches(prompts, batching)]

    assert sizes(24) == [40]
    assert sizes(1) == [20, 20]


def test_texts_that_end_differently_are_not_in_one_batch() -> None:
    ends = [(("\n",), 8), (("\n",), 9), (("."), 8)]
    prompts = [Prompt((1, 2), tuple(stops), limit) for stops, limit in [*ends, *ends]]
    assert make_batches(prompts, Batching(1024, None, 48, 4096, 1024)) == [[0, 3], [1, 4], [2, 5]]
