"""Measures how the time of a candidate in a real search divides into merging, scoring and the rest.

    python benchmarks/candidate.py [--quick]

Runs the search of configs/evolution.yaml completely (with journal, optimizer and best recipe) and
divides the time from the first candidate to the last into preparing merges, merging, scoring and
the rest. The library of CMA-ES is imported before, once a search. For comparison it measures, in
the same process, the forward passes alone ("bare") on the same documents: the prompts in the best
of several batch sizes, then as many new tokens as the model generated, one after the other with a
cache. Then the same candidates are scored in bfloat16, and in float32 with weights in bfloat16
(`evaluation.float32`). Times are CPU milliseconds per candidate on one thread. The last line is one
JSON object with ratios to the bare passes, and of float32 to bfloat16.
"""

from __future__ import annotations

import argparse
import importlib
import json
import tempfile
import time
import unittest.mock
from pathlib import Path
from typing import Any

import torch
from evaluation import bare_generation, least

from evomerge.config.schema import load
from evomerge.evaluation.inference.generation import make_batches
from evomerge.execute.allocator import keep_freed_memory
from evomerge.execute.worker import Worker
from evomerge.problem.problem import Problem, record_of
from evomerge.problem.runs import prepare
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.searching.run import run_search

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "evolution.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer candidates")
    count = 20 if parser.parse_args().quick else 100
    problem = prepare(load(CONFIG, [f"budget.candidates={count}"]), CONFIG.parent)
    worker = Worker(problem)
    times = search(problem, worker, count)
    times["bare"] = bare(problem, worker)
    for name, float32 in (("bfloat16", False), ("float32", True)):
        changes = [f"budget.candidates={min(count, 20)}", "dtype=bfloat16"]
        changed = prepare(load(CONFIG, [*changes, f"evaluation.float32={float32}"]), CONFIG.parent)
        times[name] = search(changed, Worker(changed), min(count, 20))["evaluate"]
    print(f"CPU ms per candidate on one thread, {count} candidates; {CONFIG.name}, 200 documents")
    for name, value in times.items():
        print(f"{name:10}{value:8.1f}")
    ours = ("prepare", "merge", "evaluate", "rest", "total")
    ratios = {f"{name}/bare": times[name] / times["bare"] for name in ours}
    ratios["float32/bfloat16"] = times["float32"] / times["bfloat16"]
    print(json.dumps({name: round(ratio, 3) for name, ratio in ratios.items()}))


def search(problem: Problem, worker: Worker, count: int) -> dict[str, float]:
    """Run the search and return CPU milliseconds per candidate, by phase."""
    finished: list[float] = []
    phases: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        run = RunFolder.create(Path(folder) / "run", "{}", record_of(problem).to_json())

        def observe(history: History, event: dict[str, Any]) -> None:
            if event["event"] == "tell":
                finished.append(time.process_time())
                if len(finished) == count:
                    for name, spent in run.timings.spent().items():
                        phases[name] = 1000 * (spent.cpu_seconds or 0.0) / count

        with unittest.mock.patch("evomerge.execute.worker.Worker", lambda *_, **__: worker):
            importlib.import_module("cma")
            began = time.process_time()
            run_search(problem, run, {}, [observe])
    total = 1000 * (finished[count - 1] - began) / count
    rest = total - sum(phases.values())
    return {**phases, "rest": rest, "total": total}


def bare(problem: Problem, worker: Worker) -> float:
    """Return CPU milliseconds of the forward passes alone, averaged over the baselines."""
    evaluator = worker.evaluator
    found = []
    for recipe in list(problem.space.baselines().values()):
        model = worker.build(recipe)
        (task,) = {objective.task for objective in problem.objectives}
        objective = evaluator.tasks_of("search").of(task)
        documents = [objective.requests.get(task, i) for i in problem.splits["search"][task]]
        prompts = [prompt for requests in documents for item in requests for prompt in item.prompts]
        forward = objective.runner.batched
        new = [
            len(tokens)
            for tokens in forward.generate(model, prompts, make_batches(prompts, forward.batching))
        ]
        tokens = [prompt.tokens for prompt in prompts]
        runs = {str(size): bare_generation(model, tokens, new, size) for size in (16, 32, 64, 128)}
        found.append(min(least(runs, 3).values()))
    return sum(found) / len(found)


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()  # as `evomerge search` does
    main()
