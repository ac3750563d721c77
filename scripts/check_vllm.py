"""Check the vLLM backend on a machine with a GPU: scores beside the hf backend's, weights reloaded.

    pip install 'evomerge[vllm]'
    python scripts/check_vllm.py

Scores three embedded models through one engine, one after the other and the first one again, and
compares every metric with the hf backend's on the same documents. Exit 0 if all agree.
"""

from __future__ import annotations

import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.harness import Harness

TASKS = ("zoo_facts", "zoo_l2_maths_mc", "zoo_maths")
MODELS = ("base", "maths", "language", "base")
TOLERANCE = 0.01  # kernels differ in their last bits, so that near ties may fall the other way


def main() -> int:
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("base"))
    models = {
        name: AutoModelForCausalLM.from_pretrained(zoo.path(name), dtype=torch.float32)
        .eval()
        .to("cuda")
        for name in set(MODELS)
    }
    evaluators = {}
    for backend in ("hf", "vllm"):
        evaluator = Evaluator(Harness(TASKS, [zoo.tasks_path()]), backend=backend)
        evaluator.prepare(models["base"], tokenizer, {"search": dict.fromkeys(TASKS, range(400))})
        evaluators[backend] = evaluator
    worst = 0.0
    for name in MODELS:
        scores = {backend: e.score(models[name]) for backend, e in evaluators.items()}
        for key, value in scores["hf"].aggregates.items():
            served = scores["vllm"].aggregates[key]
            worst = max(worst, abs(served - value))
            print(f"{name:10}{key:30}{value:10.4f}{served:10.4f}")
        times = [scores[backend].seconds["evaluate"] for backend in ("hf", "vllm")]
        print(f"{name:10}{'seconds':30}{times[0]:10.3f}{times[1]:10.3f}")
    print("agrees" if worst <= TOLERANCE else f"differs by up to {worst:.4f}")
    return int(worst > TOLERANCE)


if __name__ == "__main__":
    sys.exit(main())
