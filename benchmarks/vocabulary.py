"""Measures what generating costs where the vocabulary is large.

    python benchmarks/vocabulary.py [--quick]

A random Llama in bfloat16 with 49,152 tokens and weights without gradients generates for a batch
of prompts. Compared are evomerge's loop, and the same loop if the output head reads the last
position as transformers hands it over, a slice that is not contiguous. Each runs in a process of
its own, on one thread. The last line is one JSON object: CPU time and peak memory as ratios to
those of the slice.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from contextlib import nullcontext
from unittest.mock import patch

WAYS = ("contiguous", "slice")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer new tokens")
    parser.add_argument("--way", choices=WAYS, help="measure one way in this process")
    arguments = parser.parse_args()
    steps = 4 if arguments.quick else 20
    if arguments.way:
        print(json.dumps(measure(arguments.way, steps)))
        return
    found = {}
    print(f"64 prompts, {steps} new tokens each")
    for way in WAYS:
        command = [sys.executable, __file__, "--way", way, *["--quick"] * arguments.quick]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[way] = json.loads(output.splitlines()[-1])
        print(f"{way:12}{found[way]['cpu']:8.2f} CPU s{found[way]['memory']:8.2f} GB at most")
    ratios = {
        name: round(found["contiguous"][name] / found["slice"][name], 3)
        for name in ("cpu", "memory")
    }
    print(json.dumps({f"{name}/slice": ratio for name, ratio in ratios.items()}))


class NoText:
    """A tokenizer whose tokens are no text, so that no stop sequence is found."""

    def decode(self, tokens: object) -> str:
        return ""


def measure(way: str, steps: int) -> dict[str, float]:
    """Return CPU seconds of generation and the peak memory of this process in GB."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from evomerge.evaluation.inference import generation

    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1_536,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        eos_token_id=None,
        dtype=torch.bfloat16,
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16).requires_grad_(False).train(False)
    prompts = [generation.Prompt(tuple(range(2, 22)), (), steps) for _ in range(64)]
    stops = generation.Stops(NoText(), ())
    replaced = patch.object(generation, "contiguous_head", lambda model: nullcontext())
    with replaced if way == "slice" else nullcontext():
        began = time.process_time()
        generation.continue_prompts(model, prompts, stops, 0)
        spent = time.process_time() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    return {"cpu": spent, "memory": peak}


if __name__ == "__main__":
    main()
