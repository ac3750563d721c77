"""Compares the cost of generating texts with transformers and with vLLM.

    python benchmarks/backends.py MODEL [--quick]

MODEL is a checkpoint, for example SmolLM2-135M-Instruct. It runs in bfloat16, on one thread where
there is no GPU. Run it where vLLM is installed (scripts/vllm_environment.sh). Each backend has a
process of its own. The texts have 1 and 40 new tokens. Before each measurement the weights are
changed a little, so that the time of loading them into vLLM is included.

The table also says how many texts are equal. The last line is one JSON object: CPU time and peak
memory of vLLM as ratios to those of transformers.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.tasks.harness import Harness

BACKENDS = ("hf", "vllm")
LIMITS = (1, 40)
"""New tokens of the texts of each task."""

KINDS = tuple(f"generate_{limit}" for limit in LIMITS)
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")


def write_tasks(folder: Path) -> None:
    """Write the tasks, with 100 documents of random words."""
    rng = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps({"text": words(40, 80)}) + "\n" for _ in range(100)))
    for limit, name in zip(LIMITS, KINDS, strict=True):
        task = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": "{{text}}\nAnswer:",
            "doc_to_target": "",
            "output_type": "generate_until",
            "generation_kwargs": {"until": ["@@"], "max_gen_toks": limit},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(task))


def measure(folder: str, backend: str, documents: int, rounds: int) -> dict[str, Any]:
    """Return CPU seconds and answers of each kind of request, and the peak memory in GB."""
    device = torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    if device.type == "cpu":
        torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval().to(device)
    norm = next(p for name, p in reversed(list(model.named_parameters())) if "norm" in name).data
    original = norm.clone()
    found: dict[str, Any] = {"seconds": {}, "answers": {}}
    engine = None
    with tempfile.TemporaryDirectory() as made:
        write_tasks(Path(made))
        for kind in KINDS:
            evaluator = Evaluator(Harness([kind], [Path(made)]), backend=backend)  # type: ignore[arg-type]
            evaluator._engine = engine
            evaluator.prepare(model, tokenizer, {"search": {kind: range(documents)}})
            engine = evaluator._engine
            seconds = []
            for number in range(rounds + 1):  # the first one is not counted
                norm.copy_(original * (1 + 0.02 * (number - rounds)))
                began = time.process_time()
                evaluator.score(model)
                seconds.append(time.process_time() - began)
            found["seconds"][kind] = min(seconds[1:])
            requests = evaluator.requests("search", kind).values()
            found["answers"][kind] = [request.instance.resps[0] for (request,) in requests]
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="folder of a checkpoint")
    parser.add_argument("--quick", action="store_true", help="fewer documents and rounds")
    parser.add_argument("--backend", choices=BACKENDS, help="measure one backend in this process")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    documents, rounds = (20, 1) if arguments.quick else (100, 2)
    if arguments.backend:
        print(json.dumps(measure(arguments.model, arguments.backend, documents, rounds)))
        return
    found = {}
    for backend in BACKENDS:
        command = [sys.executable, __file__, arguments.model, "--backend", backend]
        command += ["--quick"] * arguments.quick
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[backend] = json.loads(output.splitlines()[-1])
    hf, vllm = found["hf"], found["vllm"]
    ratios = {}
    print(f"{documents} documents, CPU seconds\n{'kind':14}{'hf':>8}{'vllm':>8}")
    for kind in KINDS:
        times = hf["seconds"][kind], vllm["seconds"][kind]
        pairs = zip(hf["answers"][kind], vllm["answers"][kind], strict=True)
        equal = sum(one == other for one, other in pairs)
        print(f"{kind:14}{times[0]:8.2f}{times[1]:8.2f}  {equal} of {documents} texts are equal")
        ratios[f"{kind} vllm/hf"] = round(times[1] / times[0], 2)
    print(f"{'peak GB':14}{hf['memory']:8.2f}{vllm['memory']:8.2f}")
    ratios["memory vllm/hf"] = round(vllm["memory"] / hf["memory"], 2)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
