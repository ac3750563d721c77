"""Which experts are merged, what is measured of their weights, and how their merges do."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from statistics import fmean

import numpy as np
import torch
from transformers import AutoModelForCausalLM

import evomerge
from comparing.experts import EXPERTS, reference
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import open_parent, resolve
from evomerge.report.parents.weights import Weights, compare_weights
from scripts.zoo import stories
from scripts.zoo.train import score

HERE = Path.cwd()
METRICS = {"zoo_facts": "acc"}
"""The metric of a task, where it is not `exact_match`."""


@dataclass(frozen=True)
class World:
    """Experts that are merged, for the mean of the tasks that they were trained for."""

    experts: tuple[str, ...]

    @property
    def name(self) -> str:
        """The names of the experts."""
        return " + ".join(self.experts)

    @property
    def base(self) -> str:
        """What task vectors are measured from: the base of the first expert."""
        return EXPERTS[self.experts[0]].base

    @property
    def tasks(self) -> list[str]:
        """The tasks, each once."""
        return list(dict.fromkeys(EXPERTS[name].task for name in self.experts))

    @property
    def kind(self) -> str:
        """`two skills`, `three skills`, `one skill`, or `two bases`."""
        if len({EXPERTS[name].base for name in self.experts}) > 1:
            return "two bases"
        return {1: "one skill", 2: "two skills", 3: "three skills"}[len(self.tasks)]


def worlds() -> list[World]:
    """Return all worlds, those of two skills first."""
    names = {
        skill: [n for n, item in EXPERTS.items() if item.skill == skill and item.base != "other"]
        for skill in ("language", "maths", "facts")
    }
    language, maths, facts = names.values()
    two = [*itertools.product(language, maths), *itertools.product(language, facts)]
    two += [*itertools.product(maths, facts), ("other-language", "other-maths")]
    one = [pair for group in names.values() for pair in itertools.combinations(group, 2)]
    three = list(zip(language, (*maths, maths[0]), (*facts, facts[1]), strict=True))
    three += list(zip(language, (*maths[1:], *maths[:2]), (*facts[2:], *facts), strict=True))
    bases = [("language", "other-maths"), ("other-language", "maths"), ("other-language", "facts")]
    bases.append(("language", "other-language"))
    return [World(tuple(item)) for item in (*two, *one, *three, *bases)]


def measured(world: World, folder: Path) -> dict[str, float]:
    """Return what may predict how a merge does: what it is -> value."""
    base = open_parent(reference(world.base, folder), HERE)
    parents = [open_parent(reference(name, folder), HERE) for name in world.experts]
    return figures(compare_weights(base, parents)) | {
        "effective rank": fmean(_rank(base, parent) for parent in parents)
    }


def figures(weights: Weights) -> dict[str, float]:
    """Return the figures of a comparison with a base: means over parents, or over pairs."""
    whole, components = weights.whole, weights.components
    pairs = np.triu_indices(len(whole.norms), 1)
    layers = weights.by_layer
    norms = np.array([item.norms for item in layers])
    depth = (np.arange(len(layers))[:, None] * norms**2).sum(0) / (norms**2).sum(0)
    return {
        "change, largest": float(whole.change.max()),
        "change, smallest": float(whole.change.min()),
        "change, largest / smallest": float(whole.change.max() / whole.change.min()),
        "change of both, largest": float(weights.matrices.change.max()),
        "change of attention": float(components["attention"].change.mean()),
        "change of mlp": float(components["mlp"].change.mean()),
        "change of embeddings": float(components["embeddings"].change.max()),
        "change of the head": float(components["head"].change.max()),
        "changed elements": float(whole.changed_share.mean()),
        "mean layer of the change": float(depth.mean() / len(layers)),
        "cosine of task vectors": float(whole.cosines[pairs].mean()),
        "cosine, attention": float(components["attention"].cosines[pairs].mean()),
        "cosine, mlp": float(components["mlp"].cosines[pairs].mean()),
        "sign conflicts": float(whole.conflict_share[pairs].mean()),
        "cosine of weights": float(whole.weight_cosines[pairs].mean()),
        "distance of weights": float(whole.distances[pairs].mean()),
    }


def _rank(base: Checkpoint, parent: Checkpoint) -> float:
    """Return the mean effective rank of the changes of six matrices (Roy and Vetterli 2007)."""
    from safetensors.numpy import load_file

    first, second = (load_file(item.folder / "model.safetensors") for item in (base, parent))
    stack = base.decoder_stack
    ranks = []
    for layer in (0, len(stack) // 2, len(stack) - 1):
        for suffix in ("self_attn.o_proj.weight", "mlp.down_proj.weight"):
            name = stack.name(layer, suffix)
            values = np.linalg.svd(second[name] - first[name], compute_uv=False)
            shares = values[values > 0] / values.sum()
            ranks.append(float(np.exp(-(shares * np.log(shares)).sum())))
    return fmean(ranks)


@cache
def _model(path: Path) -> dict[str, torch.Tensor]:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model.state_dict()


@cache
def _asked(task: str, documents: int) -> list[stories.Document]:
    return stories.task_documents()[task][:documents]


def plain_scores(world: World, folder: Path, documents: int) -> dict[str, float]:
    """Return the mean score of each expert and of the average of their weights (`uniform`)."""
    paths = [resolve(reference(name, folder), HERE) for name in world.experts]
    states = [_model(path) for path in paths]
    found = {
        name: fmean(_scored(path, states[n], task, documents) for task in world.tasks)
        for n, (name, path) in enumerate(zip(world.experts, paths, strict=True))
    }
    average = {name: torch.stack([state[name] for state in states]).mean(0) for name in states[0]}
    path = resolve("zoo:base", HERE)
    scores = [_score(path, average, task, documents) for task in world.tasks]
    return found | {"uniform": fmean(scores)}


_known: dict[tuple[Path, str, int], float] = {}


def _scored(path: Path, state: Mapping[str, torch.Tensor], task: str, documents: int) -> float:
    if (path, task, documents) not in _known:
        _known[path, task, documents] = _score(path, state, task, documents)
    return _known[path, task, documents]


@cache
def _room(path: Path) -> torch.nn.Module:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def _score(path: Path, state: Mapping[str, torch.Tensor], task: str, documents: int) -> float:
    model = _room(path)
    model.load_state_dict(dict(state))
    return score(model, _asked(task, documents), stories.TASKS[task].multiple_choice)


def searched(world: World, folder: Path, candidates: int = 8, documents: int = 40) -> float:
    """Search by gradients, or go on; return the winner's mean score on test documents."""
    config = {
        "seed": 0,
        "parents": [reference(name, folder) for name in world.experts],
        "base": reference(world.base, folder),
        "dtype": "float32",
        "space": {
            "kind": "parameters",
            "method": "task_arithmetic",
            "groups": "each",
            "embeddings": True,
            "knobs": {"weight": [0.0, 2.0]},
        },
        "optimizer": {"name": "gradient", "steps": 40},
        "objectives": [
            {"task": task, "metric": METRICS.get(task, "exact_match")} for task in world.tasks
        ],
        "evaluation": {
            "include": ["zoo:tasks"],
            "threads": 1,
            "search": {"documents": documents},
            "validation": {"documents": documents, "finalists": 3},
            "test": {"documents": 150},
            "racing": {"enabled": False},
        },
        "budget": {"candidates": candidates},
    }
    run = folder.parent / "runs" / world.name.replace(" + ", "_")
    done = run.with_suffix(".json")
    if not done.exists():
        table = evomerge.search(config, run, resume=True, progress=False).standings
        column = "fitness" if len(world.tasks) > 1 else table.score[0]
        rows = table[(table.split == "test") & (table.score == column)]
        done.write_text(json.dumps(float(rows.value.iloc[-1])))
    return float(json.loads(done.read_text()))


def record(file: Path, make: Callable[[], Mapping[str, float]]) -> Mapping[str, float]:
    """Return the content of a JSON file, which is made if it is not there."""
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(make()))
    found: Mapping[str, float] = json.loads(file.read_text())
    return found


def best_parent(scores: Mapping[str, float], world: World) -> float:
    """Return the score of the best of the experts."""
    return max(scores[name] for name in world.experts)
