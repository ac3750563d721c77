"""Compares the cost of scoring with transformers and with vLLM, for each kind of request.

    python benchmarks/backends.py MODEL [--quick]

MODEL is a checkpoint, for example SmolLM2-135M-Instruct. It runs in bfloat16, on one thread where
there is no GPU. Run it where vLLM is installed (scripts/vllm_environment.sh). Each backend has a
process of its own. The kinds of requests are the four choices of a question, running text, and
texts of 1 and of 40 new tokens. Log-likelihoods are scored by vLLM here, which a search leaves to
transformers. Before each measurement the weights are changed a little, so that the time of loading
them into vLLM is included.

The table also says how many texts are equal, and how much log-likelihoods differ. The last line is
one JSON object: CPU time and peak memory of vLLM as ratios to those of transformers.
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
from evomerge.evaluation.inference.engine import EngineForward
from evomerge.evaluation.inference.reference import ReferenceLM
from evomerge.evaluation.tasks.harness import Harness

BACKENDS = ("hf", "vllm")
KINDS = ("choice", "rolling", "generate_1", "generate_40")
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")


def write_tasks(folder: Path) -> None:
    """Write a task of each kind, with 100 documents of random words."""
    rng = random.Random(0)

    def words(least: int, most: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(least, most)))

    rows = [
        {"text": words(40, 80), "choices": [words(2, 8) for _ in range(4)], "label": i % 4}
        for i in range(100)
    ]
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "doc_to_text": "{{text}}\nAnswer:",
        "doc_to_target": "label",
    }
    tasks: dict[str, dict[str, Any]] = {
        "choice": {"output_type": "multiple_choice", "doc_to_choice": "choices"},
        "rolling": {
            "output_type": "loglikelihood_rolling",
            "doc_to_text": "",
            "doc_to_target": "{{text}}",
        },
    }
    for limit in (1, 40):
        options = {"until": ["@@"], "max_gen_toks": limit}
        tasks[f"generate_{limit}"] = {"output_type": "generate_until", "generation_kwargs": options}
    for name, own in tasks.items():
        (folder / f"{name}.yaml").write_text(json.dumps({"task": name, **common, **own}))


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
            if engine is not None:
                reference = ReferenceLM(model, tokenizer)
                evaluator.forward = EngineForward(reference, engine)
            seconds = []
            for number in range(rounds + 1):  # the first one is not counted
                norm.copy_(original * (1 + 0.02 * (number - rounds)))
                began = time.process_time()
                evaluator.score(model)
                seconds.append(time.process_time() - began)
            found["seconds"][kind] = min(seconds[1:])
            requests = evaluator.requests("search", kind).values()
            found["answers"][kind] = [
                (r.instance.resps[0], sum(len(c.targets) for c in r.continuations))
                for of_document in requests
                for r in of_document
            ]
    found["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return found


def compare(one: list[Any], other: list[Any]) -> str:
    """Return how much two lists of answers differ, as text."""
    if isinstance(one[0][0], str):
        same = sum(a == b for (a, _), (b, _) in zip(one, other, strict=True))
        return f"{same} of {len(one)} texts are equal"
    totals = [[a[0] if isinstance(a, list) else a for a, _ in answers] for answers in (one, other)]
    tokens = sum(count for _, count in one)
    gap = sum(abs(a - b) for a, b in zip(*totals, strict=True)) / tokens
    return f"mean difference per token {gap:.4f}"


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
        difference = compare(hf["answers"][kind], vllm["answers"][kind])
        print(f"{kind:14}{times[0]:8.2f}{times[1]:8.2f}  {difference}")
        ratios[f"{kind} vllm/hf"] = round(times[1] / times[0], 2)
    print(f"{'peak GB':14}{hf['memory']:8.2f}{vllm['memory']:8.2f}")
    ratios["memory vllm/hf"] = round(vllm["memory"] / hf["memory"], 2)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
