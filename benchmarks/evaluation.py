"""Compares the cost of evaluating a candidate with lm-eval's and with the forward passes alone.

    python benchmarks/evaluation.py [--quick]
    python benchmarks/evaluation.py --models FOLDER ... [--documents N] [--sizes N ...]

For each task, the same documents are scored in turn, in one process, by

- `lm_eval.simple_evaluate` with an HFLM and a task manager that are already loaded (batch size 16),
- evomerge, after `prepare` ("ours"),
- the forward passes alone ("bare"): the same rows of tokens (a context only once for all choices),
  sorted by length, in the fastest of several batch sizes, with the output head on one position of
  each row; for generation, the prompts and then the new tokens one by one with a cache.

Times are CPU milliseconds on one thread, the minimum of several rounds. The last line is one JSON
object of ratios: `ours/bare` (goal: at most 1.15 for log-likelihoods with the 50 M model, 1.5 with
the tiny model) and `lm_eval/ours` (goal: at least 3 with the tiny model).

With `--models`, checkpoints of your own are loaded in float32, one after the other. Each scores
documents with four choices and continues prompts of random words by up to 24 tokens, once with
evomerge and once with lm-eval at each of several batch sizes, of which the best one counts. `check`
is what `prepare` takes.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import resource
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import lm_eval
import torch
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache, LlamaConfig

from evomerge import zoo
from evomerge.compat.transformers import cache_arguments
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.inference.forward import continuation_rows
from evomerge.evaluation.inference.generation import make_batches
from evomerge.evaluation.lm_eval.objective import LmEval
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.execute.allocator import keep_freed_memory

BATCHES = (1, 4, 8, 16, 32, 64, 128)


def middle_model() -> Any:
    """Return a random Llama model with 50 M parameters and a vocabulary of 8,000."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 8000, "hidden_size": 512, "intermediate_size": 2048}
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8, "num_hidden_layers": 10}
    ends = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    config = LlamaConfig(**sizes, **heads, **ends, initializer_range=0.05)
    return AutoModelForCausalLM.from_config(config).eval()


def write_tasks(folder: Path, tokenizer: Any) -> None:
    """Write multiple-choice, five-shot and running-text tasks of random words."""
    rng = random.Random(0)
    words = sorted(word for word in tokenizer.get_vocab() if word.isalnum())

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(words) for _ in range(rng.randint(low, high)))

    lengths = {"made_choice": (20, 60), "made_long_choice": (250, 350), "made_rolling": (150, 400)}
    lengths["made_texts"] = (10, 16)
    lengths["made_fewshot"] = lengths["made_choice"]
    for name, (low, high) in lengths.items():
        rows = [
            {
                "prompt": text(low, high),
                "choices": [text(2, 12) for _ in range(4)],
                "gold": rng.randrange(4),
            }
            for _ in range(100)
        ]
        data = folder / f"{name}.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        task: dict[str, Any] = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(data)}},
            "test_split": "test",
        }
        if name == "made_rolling":
            task |= {"output_type": "loglikelihood_rolling"}
            task |= {"doc_to_text": "", "doc_to_target": "prompt"}
        elif name == "made_texts":
            task |= {
                "output_type": "generate_until",
                "doc_to_text": "prompt",
                "doc_to_target": "gold",
                "generation_kwargs": {"until": ["\n"], "do_sample": False, "max_gen_toks": 24},
                "metric_list": [{"metric": "exact_match"}],
            }
        else:
            task |= {"output_type": "multiple_choice", "doc_to_choice": "choices"}
            task |= {"doc_to_text": "prompt", "doc_to_target": "gold"}
        if name == "made_fewshot":  # the same five examples before every document, as in MMLU
            task |= {"num_fewshot": 5, "fewshot_config": {"sampler": "first_n"}}
            task |= {"fewshot_split": "test"}
        (folder / f"{name}.yaml").write_text(json.dumps(task))


def bare_scoring(model: Any, rows: Sequence[Sequence[int]], size: int) -> Callable[[], None]:
    """Return a function that runs rows of tokens, longest first, in batches of `size` rows."""
    ordered = sorted(rows, key=len, reverse=True)
    batches = []
    for start in range(0, len(ordered), size):
        batch = ordered[start : start + size]
        width = len(batch[0])
        padded = [[*row, *[0] * (width - len(row))] for row in batch]
        batches.append(torch.tensor(padded, device=model.device))

    def run() -> None:
        with torch.inference_mode():
            for batch in batches:
                model(input_ids=batch, use_cache=False, logits_to_keep=1)

    return run


def bare_generation(
    model: Any, prompts: Sequence[Sequence[int]], new: Sequence[int], size: int
) -> Callable[[], None]:
    """Return a function that runs the forward passes of greedy generation.

    Args:
        new: number of new tokens of each prompt; a batch runs as many steps as its longest needs.
        size: prompts in a batch.
    """
    order = sorted(range(len(prompts)), key=lambda i: -len(prompts[i]))
    batches = []
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        width = max(len(prompts[i]) for i in chosen)
        tokens = [[*[0] * (width - len(prompts[i])), *prompts[i]] for i in chosen]
        batch = torch.tensor(tokens, device=model.device)
        batches.append((batch, max(new[i] for i in chosen)))

    cache_argument, last = cache_arguments(model.__class__)

    def run() -> None:
        with torch.inference_mode():
            for tokens, steps in batches:
                options = {cache_argument: DynamicCache(config=model.config), **last}
                step = tokens
                for _ in range(steps):
                    logits = model(step, **options).logits
                    step = logits[:, -1].argmax(-1, keepdim=True)

    return run


def cpu_seconds() -> float:
    """Return the CPU time of this process and of its child processes (lm-eval starts some)."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def least(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """Return the CPU milliseconds of each function: the minimum over rounds, run in turn."""
    best = dict.fromkeys(runs, float("inf"))
    for _ in range(rounds):
        for name, run in runs.items():
            began = cpu_seconds()
            run()
            best[name] = min(best[name], 1000 * (cpu_seconds() - began))
    return best


def measure(
    model: Any, tokenizer: Any, task: str, count: int, folder: Path, rounds: int
) -> dict[str, float]:
    """Return the CPU milliseconds of each way to score the first `count` documents of a task.

    Args:
        folder: folder with the task's YAML.
        rounds: how often each way is measured.
    """
    ids = list(range(count))
    objective = LmEval(Harness([task], [folder]))
    evaluator = Evaluator([objective])
    evaluator.prepare(model, tokenizer, {"search": {task: ids}})
    evaluator.score(model)
    documents = [objective.requests.get(task, document) for document in ids]
    prompts = [prompt for requests in documents for item in requests for prompt in item.prompts]
    if prompts:
        forward = objective.runner.batched
        groups = make_batches(prompts, forward.batching)
        new = [len(tokens) for tokens in forward.generate(model, prompts, groups)]
        bare = {
            f"bare {size}": bare_generation(model, [p.tokens for p in prompts], new, size)
            for size in BATCHES
        }
    else:
        rows = [row.tokens for row in continuation_rows(documents, packed=True)]
        bare = {f"bare {size}": bare_scoring(model, rows, size) for size in BATCHES}
    bare = {name: run for name, run in bare.items() if int(name.split()[1]) <= max(16, count)}
    manager = TaskManager(include_path=str(folder), include_defaults=False)
    stock = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=16)

    def simple_evaluate() -> None:
        lm_eval.simple_evaluate(
            model=stock, tasks=[task], task_manager=manager, samples={task: ids}, bootstrap_iters=0
        )

    fastest = min(best := least(bare, 1), key=lambda name: best[name])
    ours = partial(evaluator.score, model)
    return least({"lm_eval": simple_evaluate, "ours": ours, "bare": bare[fastest]}, rounds)


def measure_checkpoint(
    folder: Path, count: int, sizes: Sequence[int], tasks: Sequence[str]
) -> dict[str, float]:
    """Print a row for each task, and return the time of lm-eval at its best batch size / ours."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ratios, ids = {}, list(range(count))
    with tempfile.TemporaryDirectory() as made:
        write_tasks(Path(made), tokenizer)
        manager = TaskManager(include_path=made, include_defaults=False)
        for task in tasks:
            evaluator = Evaluator([LmEval(Harness([task], [Path(made)]))])
            began = cpu_seconds()
            evaluator.prepare(model, tokenizer, {"search": {task: ids}})
            check = cpu_seconds() - began

            def simple_evaluate(size: int, task: str = task) -> None:
                lm_eval.simple_evaluate(
                    model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size),
                    tasks=[task],
                    task_manager=manager,
                    samples={task: ids},
                    bootstrap_iters=0,
                )

            runs: dict[str, Callable[[], Any]] = {"ours": partial(evaluator.score, model)}
            runs |= {str(size): partial(simple_evaluate, size) for size in sizes}
            times = least(runs, 1)
            best = min((str(size) for size in sizes), key=lambda name: times[name])
            ratios[f"{folder.name} {task} lm_eval/ours"] = round(times[best] / times["ours"], 2)
            every = ", ".join(f"{name}: {times[name] / 1000:.1f}" for name in times)
            print(
                f"{folder.name:10}{task:14}{count:6}  {every}, check: {check:.1f} CPU s", flush=True
            )
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer documents and rounds")
    parser.add_argument("--models", type=Path, nargs="+", help="folders of checkpoints")
    parser.add_argument("--documents", type=int, default=100, help="of each task, with --models")
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 32, 100])
    parser.add_argument("--tasks", nargs="+", default=["made_choice", "made_texts"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    keep_freed_memory()
    if options.models:
        found: dict[str, float] = {}
        for checkpoint in options.models:
            found |= measure_checkpoint(checkpoint, options.documents, options.sizes, options.tasks)
        print(json.dumps(found))
        return
    quick = options.quick
    folder = zoo.path("base")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tiny = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    middle = middle_model()
    few = 40 if quick else 200
    rounds = 2 if quick else 5
    ratios: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as made:
        write_tasks(Path(made), tokenizer)
        cases = [
            ("tiny", tiny, "zoo_facts", few, zoo.tasks_path()),
            ("tiny", tiny, "zoo_l2_maths_mc", few, zoo.tasks_path()),
            ("tiny", tiny, "zoo_maths", few, zoo.tasks_path()),
            ("tiny", tiny, "made_choice", 50, Path(made)),
            ("50M", middle, "made_choice", 10 if quick else 40, Path(made)),
            ("50M", middle, "made_long_choice", 4 if quick else 12, Path(made)),
            ("50M", middle, "made_rolling", 6 if quick else 20, Path(made)),
            ("tiny", tiny, "made_fewshot", few // 2, Path(made)),
            ("50M", middle, "made_fewshot", 10 if quick else 40, Path(made)),
        ]
        print(f"{'model':6}{'task':20}{'documents':>10}{'lm_eval':>10}{'ours':>10}{'bare':>10}")
        for size, model, task, count, where in cases:
            times = measure(model, tokenizer, task, count, where, rounds)
            figures = "".join(f"{times[name]:10.0f}" for name in ("lm_eval", "ours", "bare"))
            print(f"{size:6}{task:20}{count:10}{figures}", flush=True)
            ratios[f"{size} {task} ours/bare"] = round(times["ours"] / times["bare"], 3)
            ratios[f"{size} {task} lm_eval/ours"] = round(times["lm_eval"] / times["ours"], 2)
    print(json.dumps(ratios))


if __name__ == "__main__":
    main()
