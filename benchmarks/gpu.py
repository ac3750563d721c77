"""Measures what a candidate costs on a GPU, with transformers and with vLLM.

    python benchmarks/gpu.py [--device cuda|cpu] [--size 1b|tiny] [--quick]

Three random Llamas in bfloat16 are written to a temporary folder: with 1 B parameters, or tiny ones
to try the command (--quick: on a CPU). Each backend has a process of its own, in which candidates
of task arithmetic, a new weight each, are merged into the resident model on the device and scored
on 100 documents with four choices and on 100 texts of 40 new tokens. vLLM generates the texts,
after the weights were loaded into its engine. Beside them are the forward passes alone ("bare",
transformers): the same rows of tokens in the best of several batch sizes, and the same new tokens
one after the other.

Times are milliseconds, the minimum of several rounds: wall time on a GPU after it has finished, CPU
time on one thread without. Where vLLM is not installed or cannot run the model, it is left out and
the reason is printed. The last line is one JSON object with ratios to the bare passes. Exit code 2
if the device is not there.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import shutil
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from evaluation import BATCHES, bare_generation, bare_scoring
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from evomerge import zoo
from evomerge.config.evaluation import ENGINES
from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.forward import continuation_rows
from evomerge.evaluation.inference.generation import make_batches
from evomerge.evaluation.lm_eval.objective import LmEval
from evomerge.evaluation.lm_eval.requests import Runner
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.merging.architecture.loading import quiet
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES
from evomerge.recipe import Layer, Recipe, Source

NAMES = ("base", "one", "two")
TASKS: dict[str, dict[str, Any]] = {
    "choice": {"output_type": "multiple_choice", "doc_to_target": 0},
    "generate": {
        "output_type": "generate_until",
        "doc_to_target": "",
        "generation_kwargs": {"until": ["@@"], "max_gen_toks": 40},
    },
}
WORDS = ("time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world")
SIZES = {"1b": (32_000, 2048, 8192, 16, 32, 8), "tiny": (1000, 128, 256, 2, 2, 1)}


def write_models(folder: Path, size: str) -> None:
    """Write a base and two models near to it, with the tokenizer of the embedded models."""
    vocabulary, width, inner, layers, heads, key_heads = SIZES[size]
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        max_position_embeddings=2048,
        bos_token_id=1,
        eos_token_id=1,
        pad_token_id=0,
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


def write_tasks(folder: Path) -> None:
    """Write the tasks, with 100 documents of random words."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(40, 80))) for _ in range(100)]
    data = folder / "documents.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    choices = [" ".join(WORDS[:count]) for count in (2, 4, 6, 8)]
    for name, task in TASKS.items():
        whole = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
            "doc_to_text": "{{text}}\nAnswer:",
            **task,
            **({"doc_to_choice": choices} if name == "choice" else {}),
        }
        (folder / f"{name}.yaml").write_text(json.dumps(whole))


def recipes(base: Checkpoint) -> Iterator[Recipe]:
    """Yield recipes that differ in every merged tensor."""
    stack = base.decoder_stack
    for step in range(1, 1000):

        def layer(index: int | None, weight: float = step / 1000) -> Layer:
            sources = tuple(Source(name, index, {"weight": weight}) for name in NAMES[1:])
            return Layer("task_arithmetic", sources, Source("base", index))

        blocks = tuple(layer(index) for index in range(len(stack)))
        yield Recipe("base", {stack.prefix: blocks}, layer(None), layer(None))


def milliseconds(run: Callable[[], Any], device: torch.device) -> float:
    """Return the time of a call, with all that the device still has to do."""
    on_cpu = device.type == "cpu"
    clock = time.process_time if on_cpu else time.perf_counter
    if not on_cpu:
        torch.accelerator.synchronize(device)
    began = clock()
    run()
    if not on_cpu:
        torch.accelerator.synchronize(device)
    return 1000 * (clock() - began)


def measure(folder: Path, device: torch.device, backend: Any, few: bool) -> dict[str, float]:
    """Return the milliseconds of each part of a candidate, and of the bare passes with `hf`."""
    documents, rounds = (20, 2) if few else (100, 5)
    checkpoints = {name: Checkpoint.open(folder / name, name) for name in NAMES}
    memory = 2 * checkpoints["base"].nbytes
    resident = Resident(checkpoints, "base", placement=str(device), memory=memory)
    proposed = recipes(checkpoints["base"])
    model: Any = resident.apply(next(proposed))
    evaluator = Evaluator(
        [LmEval(Harness(list(TASKS), [folder]), Runner(engine=ENGINES.get(backend)))]
    )
    tokenizer = AutoTokenizer.from_pretrained(folder / "base")
    evaluator.prepare(model, tokenizer, {"search": dict.fromkeys(TASKS, range(documents))})
    evaluator.score(model)
    rows = []
    for _ in range(rounds):
        merge = milliseconds(lambda: resident.apply(next(proposed)), device)
        rows.append((merge, milliseconds(lambda: evaluator.score(model), device)))
    merge, evaluate = map(min, zip(*rows, strict=True))
    times = {"merge": merge, "evaluate": evaluate, "candidate": merge + evaluate}
    if backend == "hf":
        times["bare"] = sum(bare(evaluator, model, device, task, rounds) for task in TASKS)
    return times


def bare(evaluator: Evaluator, model: Any, device: torch.device, task: str, rounds: int) -> float:
    """Return the milliseconds of the forward passes alone on a task's documents."""
    (objective,) = evaluator.every
    assert isinstance(objective, LmEval)
    forward = objective.runner.batched
    documents = [objective.requests.get(task, i) for i in evaluator.splits["search"][task]]
    prompts = [prompt for requests in documents for item in requests for prompt in item.prompts]
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
    parser.add_argument("--backend", choices=("hf", "vllm"), help="one backend, in this process")
    parser.add_argument("--folder", type=Path, help="models and tasks for --backend")
    options = parser.parse_args()
    if options.quick:
        options.device, options.size = "cpu", "tiny"
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("There is no CUDA device here; try the command with --quick.", file=sys.stderr)
        return 2
    if device.type == "cpu":
        torch.set_num_threads(1)
    if options.backend:
        try:
            few = options.size == "tiny"
            print(json.dumps(measure(options.folder, device, options.backend, few)))
        except ConfigError as error:
            print(json.dumps({"left out": str(error)}))
        return 0
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as made:
        write_models(Path(made), options.size)
        write_tasks(Path(made))
        for backend in ("hf", "vllm"):
            command = [sys.executable, __file__, "--backend", backend, "--folder", made]
            command += ["--device", options.device, "--size", options.size]
            output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
            found[backend] = json.loads(output.splitlines()[-1])
    bare_passes = found["hf"].pop("bare")
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU, one thread"
    print(f"{options.size} on {name}, milliseconds; bare passes {bare_passes:.1f}")
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
