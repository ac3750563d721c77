"""Compares a path on a vLLM engine of its own depth with the same path on a deeper engine.

    python benchmarks/engine_depth.py MODEL [--layers N] [--depth N] [--documents N] [--dtype NAME]

MODEL is a checkpoint, for example SmolLM2-135M-Instruct. The path is its first N layers (three
quarters of them by default). The deeper engine (as deep as MODEL by default) completes it by
identity layers. Both engines run in one process, in turns, on one thread where there is no GPU.
Each document is a text of 64 random tokens, to which 40 new ones are generated.
Run it where vLLM is installed (scripts/vllm_environment.sh).

The last line is one JSON object: the CPU time of the deeper engine as a ratio to that of the other,
and the share of equal texts.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import time
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from evomerge.compat.transformers import checkpoint_weights
from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.vllm import VllmEngine
from evomerge.merging.backend import tokenizer_of
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

LENGTH, NEW, ROUNDS = 64, 40, 3
STEPS = ("load", "generate")


def path(checkpoint: Checkpoint, layers: int, dtype: str) -> Recipe:
    """Return the recipe of a checkpoint's first layers; further ones repeat the last."""
    whole, last = Layer("passthrough", (Source("model"),)), len(checkpoint.decoder_stack) - 1
    blocks = [Layer("passthrough", (Source("model", min(i, last)),)) for i in range(layers)]
    return Recipe("model", {checkpoint.decoder_stack.prefix: blocks}, whole, whole, dtype=dtype)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--layers", type=int, help="number of layers of the path")
    parser.add_argument("--depth", type=int, help="number of layers of the deeper engine")
    parser.add_argument("--documents", type=int, default=40)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    checkpoint = Checkpoint.open(Path(arguments.model), "model")
    depth = arguments.depth or len(checkpoint.decoder_stack)
    layers = arguments.layers or len(checkpoint.decoder_stack) * 3 // 4
    resident = Resident({"model": checkpoint}, "model", arguments.dtype)
    tokenizer = tokenizer_of(checkpoint)
    engines = {
        size: VllmEngine(resident.apply(path(checkpoint, size, arguments.dtype)), tokenizer)
        for size in (layers, depth)
    }
    model: Any = resident.apply(path(checkpoint, layers, arguments.dtype))
    rng = random.Random(0)
    texts = [
        [rng.randrange(10, checkpoint.vocabulary // 2) for _ in range(LENGTH)]
        for _ in range(arguments.documents)
    ]
    seconds: dict[int, dict[str, list[float]]] = {size: {} for size in engines}
    answers: dict[int, Any] = {}
    for _ in range(ROUNDS):
        for size, engine in engines.items():
            engine._loaded = ""  # so that the time of loading is measured each time
            clock = [time.process_time()]
            engine.load(checkpoint_weights(model))
            clock.append(time.process_time())
            answers[size] = engine.generate([Prompt(tuple(text), (), NEW) for text in texts])
            clock.append(time.process_time())
            for name, (begin, end) in zip(STEPS, pairwise(clock), strict=True):
                seconds[size].setdefault(name, []).append(end - begin)
    one, other = answers.values()
    print(f"{'CPU seconds':14}{layers:>6} layers{depth:>6} layers")
    ratios: dict[str, float] = {}
    for name in STEPS:
        own, deep = (min(of_size[name]) for of_size in seconds.values())
        print(f"{name:14}{own:13.2f}{deep:13.2f}")
        ratios[f"{name} deep/own"] = round(deep / own, 2)
    equal = sum(a == b for a, b in zip(one, other, strict=True))
    print(f"{equal} of {len(texts)} texts are equal")
    print(json.dumps({**ratios, "equal texts": equal / len(texts)}))


if __name__ == "__main__":
    main()
