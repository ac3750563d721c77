"""Measures the time saved by scoring a generation of paths together, and the cost of building one.

    python benchmarks/dataflow.py [--quick]

Runs real searches over paths through the embedded models and records the recipes of each generation
that were not scored before. Every generation is then scored twice on a multiple-choice task: one
candidate after the other, and together as a trie. Prints CPU seconds, the number of blocks that
were run and the smallest possible number (one for every distinct prefix of a path), and the share
of building in the time of a candidate. The last line is one JSON object of ratios. It takes two
minutes on one core, half a minute with --quick.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from evomerge.config.schema import parse
from evomerge.evaluation.inference.tree import PrefixCache
from evomerge.execute.protocol import Job
from evomerge.execute.tree import as_tree, block_keys
from evomerge.recipe import Recipe
from evomerge.scores import fitness
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.runs import prepare
from evomerge.setup.strategy import make_optimizer
from evomerge.setup.worker import make_worker

HOST = {
    "kind": "dataflow",
    "host": "zoo:maths",
    "outside": {"embeddings": "zoo:language", "head": "zoo:language"},
}
SPACES: dict[str, tuple[dict[str, Any], str]] = {
    "swaps": ({"variant": "swaps", "scales": 1.0}, "cma-margin"),
    "slots": (
        {"variant": "structured", "scales": 1.0, "ends": "free", "layers": [4, 14]},
        "cma-margin",
    ),
    "slots, scaled": (
        {"variant": "structured", "scales": [0.5, 1.5], "ends": "free", "layers": [4, 14]},
        "cma-margin",
    ),
    "slices": ({"variant": "frankenmerge", "scales": 1.0, "layers": [4, 14]}, "cma-margin"),
}


def problem_of(space: dict[str, Any], optimizer: str, documents: int) -> CheckedSearch:
    """Return the problem of a search over paths through the embedded models."""
    search = {
        "parents": ["zoo:language", "zoo:maths"],
        "dtype": "float32",
        "space": {**HOST, **space},
        "optimizer": {"name": optimizer},
        "objectives": [{"task": "zoo_l2_maths_mc", "metric": "acc"}],
        "evaluation": {
            "include": ["zoo:tasks"],
            "search": {"documents": documents},
            "validation": {"documents": 10, "finalists": 1},
            "test": {"documents": 10},
        },
    }
    return prepare(parse(search, "the benchmark's search"), Path.cwd())


def record(problem: CheckedSearch, worker: Any, generations: int) -> list[list[Recipe]]:
    """Run a search and return, for every generation, the recipes that were not scored before."""
    optimizer = make_optimizer(problem.config, problem.space.genes)
    known: dict[str, float] = {}
    recorded = []
    for _ in range(generations):
        asked = [optimizer.ask() for _ in range(optimizer.population)]
        recipes = [problem.space.decode(genome) for _, genome in asked]
        fresh = []
        for (trial, _), recipe in zip(asked, recipes, strict=True):
            if recipe.digest not in known:
                outcome = worker(Job(trial, trial, recipe))
                known[recipe.digest] = fitness(problem.objectives, outcome)
                fresh.append(recipe)
            optimizer.tell(trial, (known[recipe.digest],))
        if fresh:
            recorded.append(fresh)
    return recorded


def compare(
    problem: CheckedSearch, worker: Any, generations: list[list[Recipe]]
) -> dict[str, float]:
    """Score generations one by one and together; check that the scores are the same."""
    alone = together = merge = evaluate = 0.0
    forks = PrefixCache(2**30)
    distinct = blocks = 0
    for recipes in generations:
        jobs = [Job(number, number, recipe) for number, recipe in enumerate(recipes)]
        began = time.process_time()
        one_by_one = {job.id: worker(job) for job in jobs}
        alone += time.process_time() - began
        began = time.process_time()
        found = {job.id: out for job, out in as_tree(worker, forks)(jobs)}
        together += time.process_time() - began
        for number, outcome in one_by_one.items():
            assert outcome.values == found[number].values, "scores differ"
            merge += outcome.seconds["merge"]
            evaluate += outcome.seconds["evaluate"]
        block_keys_of_all = [block_keys(recipe) for recipe in recipes]
        blocks += sum(map(len, block_keys_of_all))
        distinct += len({t[: n + 1] for t in block_keys_of_all for n in range(len(t))})
    count = sum(map(len, generations))
    return {
        "candidates": count,
        "depth": blocks / count,
        "distinct": distinct / blocks,
        "applied": forks.applied / (forks.applied + forks.skipped),
        "seconds": together / alone,
        "alone": alone / count,
        "together": together / count,
        "build": merge / (merge + evaluate),
    }


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--quick", action="store_true", help="fewer generations and documents")
    quick = options.parse_args().quick
    torch.set_num_threads(1)
    generations, documents = (4, 60) if quick else (16, 200)
    print(
        f"{generations} generations on {documents} documents, 1 thread; blocks and seconds are "
        "relative to scoring one by one"
    )
    print(
        f"{'space':15} {'cand.':>5} {'depth':>5} {'least':>7} {'applied':>8} {'seconds':>8} "
        f"{'ms alone':>9} {'ms together':>12} {'building':>9}"
    )
    ratios: dict[str, float] = {}
    for name, (space, optimizer) in SPACES.items():
        problem = problem_of(space, optimizer, documents)
        worker = make_worker(problem)
        recorded = record(problem, worker, generations)
        row = compare(problem, worker, recorded)
        print(
            f"{name:15} {row['candidates']:5} {row['depth']:5.1f} {row['distinct']:7.3f} "
            f"{row['applied']:8.3f} {row['seconds']:8.3f} {1e3 * row['alone']:9.1f} "
            f"{1e3 * row['together']:12.1f} {row['build']:9.3f}"
        )
        late = compare(problem, worker, recorded[len(recorded) // 2 :])
        key = name.replace(", ", "_")
        ratios[f"{key}_seconds"] = row["seconds"]
        ratios[f"{key}_blocks_over_least"] = row["applied"] / row["distinct"]
        ratios[f"{key}_seconds_second_half"] = late["seconds"]
        ratios[f"{key}_building_share"] = row["build"]
    print(json.dumps({name: round(value, 4) for name, value in ratios.items()}))


if __name__ == "__main__":
    main()
