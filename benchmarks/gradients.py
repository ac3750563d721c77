"""Measures what a step of a descent takes: merge, forward pass, backward pass, gradient by genes.

    python benchmarks/gradients.py [--quick] [FILE ...]

Each FILE is a search file, of which the parents, the base and the tasks are taken; without one it
is configs/quickstart.yaml. Its space is replaced: by the weights of task_arithmetic, by those of
ties and of dare_ties (density 0.5, with lambda), and by t of slerp, each for every layer and for
every tensor. A step has 16 documents.

Printed are CPU milliseconds on one thread, each the least of several repetitions: `merge`, a merge
of which every tensor has changed; `forward`, the loss without a gradient; `backward`, what the
gradients by all merged weights take in addition; `genes`, what it takes in addition to contract
them with the sources. The last line is one JSON object: method and genes -> genes / backward.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from evomerge.config.schema import load
from evomerge.evaluation.loss import Loss
from evomerge.execute.allocator import keep_freed_memory
from evomerge.execute.worker import Worker
from evomerge.merging.gradients import Gradients
from evomerge.problem.runs import prepare
from evomerge.strategy.gradient.segment import Segment, Stepper
from evomerge.strategy.protocol import Preparing

CONFIG = Path(__file__).resolve().parent.parent / "configs" / "quickstart.yaml"
MASKED = "{weight: [0.0, 2.0], lambda: [0.5, 2.0], density: 0.5}"
KNOBS = {
    "task_arithmetic": "{weight: [0.0, 2.0]}",
    "ties": MASKED,
    "dare_ties": MASKED,
    "slerp": "{t: [0.0, 1.0]}",
}
COLUMNS = ("merge", "forward", "backward", "genes")


class Freed(Gradients):
    """Gradients by weights are used up without those by genes."""

    def _by_knobs(self, plan: Any, keys: Any, gradient: Any) -> Any:
        return dict.fromkeys(keys, 0.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="search files")
    parser.add_argument("--quick", action="store_true", help="one repetition")
    options = parser.parse_args()
    print(f"| search file | method | genes | {' | '.join(COLUMNS)} |")
    print("|---" * (3 + len(COLUMNS)) + "|")
    ratios: dict[str, float] = {}
    for file in options.files or [CONFIG]:
        for method in KNOBS:
            for components in ("all", "each"):
                genes, spent = step(file, method, components, 1 if options.quick else 5)
                cells = " | ".join(f"{spent[name]:.1f}" for name in COLUMNS)
                print(f"| {file.stem} | {method} | {genes} | {cells} |", flush=True)
                name = f"{file.stem} {method} {genes}"
                ratios[name] = round(spent["genes"] / spent["backward"], 3)
    print(json.dumps(ratios))


def step(file: Path, method: str, components: str, repeats: int) -> tuple[int, dict[str, float]]:
    """Return the number of genes, and the CPU milliseconds of the parts of a step."""
    space = f"kind: parameters, method: {method}, groups: each, knobs: {KNOBS[method]}"
    each = "" if components == "all" else ", components: each"
    changes = [f"space={{{space}{each}}}", "optimizer={name: gradient}"]
    if method == "slerp":
        changes.append("base=null")
    problem = prepare(load(file, changes), file.parent)
    strategy = problem.config.optimizer.make(problem)
    assert isinstance(strategy, Preparing)
    segment = strategy.preparations()[0]
    assert isinstance(segment, Segment)
    worker = Worker(problem)
    worker.build(segment.recipe)
    resident = worker.resident()
    genome = segment.descent.genome
    loss, documents = Loss(worker.evaluator, problem.objectives), segment.batches[0]
    rates = Stepper(problem.space, resident, loss)._rates(genome)
    other = problem.space.decode(tuple(0.8 * value for value in genome))

    def stepped(kind: type[Gradients]) -> Callable[[], None]:
        gradients = kind(resident, len(genome))

        def run() -> None:
            with gradients.of(segment.recipe, rates) as (model, _):
                loss.backward(model, documents)

        return run

    parts: dict[str, Callable[[], Any]] = {
        "merge": lambda: resident.apply(other),
        "back": lambda: resident.apply(segment.recipe),
        "forward": lambda: loss(resident.module, documents),
        "freed": stepped(Freed),
        "whole": stepped(Gradients),
    }
    least = dict.fromkeys(parts, math.inf)
    for _ in range(repeats + 1):  # the first one compiles loops
        for name, part in parts.items():
            began = time.process_time()
            part()
            least[name] = min(least[name], 1000 * (time.process_time() - began))
    return len(genome), {
        "merge": least["merge"],
        "forward": least["forward"],
        "backward": least["freed"] - least["forward"],
        "genes": least["whole"] - least["freed"],
    }


if __name__ == "__main__":
    torch.set_num_threads(1)
    keep_freed_memory()  # as `evomerge search` does
    main()
