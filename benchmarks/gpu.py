"""Measures what a candidate costs on a GPU, with transformers and with vLLM.

    python benchmarks/gpu.py [--device cuda|cpu] [--size 1b|tiny] [--quick]

Three random Llamas in bfloat16 are written to a temporary folder: with 1 B parameters, or tiny ones
to try the command (--quick: on a CPU). Each backend has a process of its own, in which candidates
of task arithmetic, a new weight each, are

- merged on the CPU into the resident model on the device; "transfer" is what this takes longer than
  into a resident model on the CPU (nothing, where the device is the CPU),
- scored on a task of four choices and on one of texts of 40 new tokens, 100 documents each. vLLM
  generates the texts, after the weights were loaded into its engine.

Beside them are the forward passes alone ("bare", transformers): the same rows of tokens in the best
of several batch sizes, and the same new tokens one after the other. Times are milliseconds, the
minimum of several rounds: wall time on a GPU after it has finished, CPU time on one thread without.
Where vLLM is not installed or cannot run the model, it is left out and the reason is printed. The
last line is one JSON object with ratios to the bare passes.

Exit code 2 if the device is not there.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch
from backends import BACKENDS, WORDS, write_tasks
from evaluation import BATCHES, bare_generation, bare_scoring
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.forward import Forward, continuation_rows
from evomerge.evaluation.inference.generation import make_batches
from evomerge.evaluation.tasks.harness import Harness
from evomerge.merging.architecture.loading import quiet
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES
from evomerge.recipe import Layer, Recipe, Source

NAMES = ("base", "one", "two")
TASKS = ("choice", "generate_40")
SIZES: dict[str, dict[str, int]] = {
    "1b": {
        "vocab_size": 32_000,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 1000,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
    },
}


def write_models(folder: Path, size: str) -> None:
    """Write a base and two models near to it, with the tokenizer of the embedded models."""
    config = LlamaConfig(
        **SIZES[size], max_position_embeddings=2048, bos_token_id=1, eos_token_id=1, pad_token_id=0
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    for name in NAMES:
        with quiet():
            model.save_pretrained(folder / name)
        for file in zoo.path("base").iterdir():
            if file.name in TOKENIZER_FILES:
                shutil.copy(file, folder / name)
        for weight in model.parameters():
            weight.data += 0.002 * torch.randn_like(weight)


def write_choice(folder: Path) -> None:
    """Write a task with four choices, about the documents of `write_tasks`."""
    task = {
        "task": "choice",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(folder / "documents.jsonl")}},
        "test_split": "test",
        "doc_to_text": "{{text}}\nAnswer:",
        "doc_to_target": 0,
        "doc_to_choice": [" ".join(WORDS[:count]) for count in (2, 4, 6, 8)],
        "output_type": "multiple_choice",
    }
    (folder / "choice.yaml").write_text(json.dumps(task))


def recipes(checkpoints: dict[str, Checkpoint]) -> Iterator[Recipe]:
    """Yield recipes that differ in every merged tensor."""
    stack = checkpoints["base"].decoder_stack
    for step in range(1, 1000):

        def layer(index: int | None, weight: float = step / 1000) -> Layer:
            sources = tuple(Source(name, index, {"weight": weight}) for name in NAMES[1:])
            return Layer("task_arithmetic", sources, Source("base", index))

        blocks = tuple(layer(index) for index in range(len(stack)))
        yield Recipe("base", {stack.prefix: blocks}, layer(None), layer(None))


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the time of a call, with all that the device still has to do."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    began = clock()
    run()
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return 1000 * (clock() - began)


def measure(
    folder: Path, device: torch.device, backend: Literal["hf", "vllm"], few: bool
) -> dict[str, float]:
    """Return the milliseconds of each part of a candidate, and of the bare passes with `hf`."""
    documents, rounds = (20, 2) if few else (100, 5)
    checkpoints = {name: Checkpoint.open(folder / name, name) for name in NAMES}
    memory = 2 * checkpoints["base"].nbytes
    settled = Resident(checkpoints, "base", place=str(device), memory=memory)
    on_cpu = Resident(checkpoints, "base", memory=memory) if device.type != "cpu" else settled
    proposed = recipes(checkpoints)
    model: Any = settled.apply(next(proposed))
    on_cpu.apply(next(proposed))
    evaluator = Evaluator(Harness(TASKS, [folder]), backend=backend)
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(TASKS, range(documents))})
    evaluator.score(model)
    found: dict[str, list[float]] = {"merge": [], "merge and transfer": [], "evaluate": []}
    for _ in range(rounds):
        here, there = next(proposed), next(proposed)
        found["merge"].append(milliseconds(lambda: on_cpu.apply(here), device))  # noqa: B023
        if on_cpu is not settled:
            moved = milliseconds(lambda: settled.apply(there), device)  # noqa: B023
            found["merge and transfer"].append(moved)
        found["evaluate"].append(milliseconds(lambda: evaluator.score(model), device))
    least = {name: min(times) for name, times in found.items() if times}
    merge, evaluate = least["merge"], least["evaluate"]
    transfer = max(0.0, least.get("merge and transfer", merge) - merge)
    times = {"merge": merge, "transfer": transfer, "evaluate": evaluate}
    times["candidate"] = sum(times.values())
    if backend == "hf":
        times["bare"] = sum(bare(evaluator, model, device, task, rounds) for task in TASKS)
    return times


def bare(evaluator: Evaluator, model: Any, device: torch.device, task: str, rounds: int) -> float:
    """Return the milliseconds of the forward passes alone on a task's documents."""
    forward = evaluator.forward
    assert isinstance(forward, Forward)
    documents = list(evaluator.requests("search", task).values())
    prompts = [request.prompt for requests in documents for request in requests if request.prompt]
    if prompts:
        groups = make_batches(prompts, forward.batching)
        new = [len(tokens) for tokens in forward.generate(model, prompts, groups)]
        tokens = [prompt.tokens for prompt in prompts]
        runs = [bare_generation(model, tokens, new, size) for size in BATCHES]
    else:
        rows = [row.tokens for row in continuation_rows(documents, packed=True)]
        runs = [bare_scoring(model, rows, size) for size in BATCHES]
    fastest = min(runs, key=lambda run: milliseconds(run, device))
    return min(milliseconds(fastest, device) for _ in range(rounds))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--size", choices=tuple(SIZES), default="1b")
    parser.add_argument("--quick", action="store_true", help="tiny models, on a CPU")
    parser.add_argument("--backend", choices=BACKENDS, help="measure one backend in this process")
    parser.add_argument("--folder", type=Path, help="models and tasks for --backend")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.device, arguments.size = "cpu", "tiny"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(
            "There is no CUDA device here; run this on a machine with one, or try the command "
            "with --quick.",
            file=sys.stderr,
        )
        return 2
    if device.type == "cpu":
        torch.set_num_threads(1)
    if arguments.backend:
        try:
            few = arguments.size == "tiny"
            print(json.dumps(measure(arguments.folder, device, arguments.backend, few)))
        except ConfigError as error:
            print(json.dumps({"left out": str(error)}))
        return 0
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        write_models(Path(made), arguments.size)
        write_tasks(Path(made))
        write_choice(Path(made))
        for backend in BACKENDS:
            command = [sys.executable, __file__, "--backend", backend, "--folder", made]
            command += ["--device", arguments.device, "--size", arguments.size]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[backend] = json.loads(output.splitlines()[-1])
    bare_passes = found["hf"].pop("bare")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    print(f"{arguments.size} on {name}, milliseconds; bare passes {bare_passes:.1f}")
    ratios: dict[str, float] = {}
    for backend, times in found.items():
        if "left out" in times:
            print(f"{backend} is left out: {times['left out']}")
            continue
        print(backend + "".join(f"  {part} {value:.1f}" for part, value in times.items()))
        ratios |= {f"{backend} {p}/bare": round(v / bare_passes, 3) for p, v in times.items()}
    print(json.dumps(ratios))
    return 0


if __name__ == "__main__":
    sys.exit(main())
