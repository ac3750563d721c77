"""The searches of the showcase: which search files, in which ways, and their results.

A search that is finished is not run again, and one that was interrupted goes on.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

import evomerge
from scripts.real.places import MODELS, ROOT, RUNS

CONFIGS = Path("scripts/real")

WAYS: dict[str, tuple[str, ...]] = {
    "search": (),
    "gradients": (
        "optimizer.name=gradient",
        "optimizer.steps=80",
        "space.groups=each",
        "space.components=[attention]",
        "budget.candidates=12",
    ),
    "random search": ("optimizer.name=random",),
    "grid of weights": (
        "space.groups=one",
        "space.method=[task_arithmetic, ties]",
        "optimizer.name=grid",
    ),
}
"""How merges are chosen -> what it changes in the search file. All have one budget, but gradients,
which take fewer candidates and about the same time: a weight for the attention and one for the rest
of each layer and expert. The grid is what people try by hand: one method for the whole model and
one weight for each expert, the corners of their range first, then finer steps."""

COMPOSITIONS: dict[str, tuple[str, ...]] = {
    "spanish": tuple(WAYS),
    "json": tuple(WAYS),
    "paths": ("search", "random search"),
    "adapter": ("search", "gradients"),
    "three": ("search", "gradients"),
    "all": ("gradients",),
    "gemma": ("search", "gradients"),
    "qwen": ("search",),
    "encoders": ("search", "random search"),
    "vision": ("search", "random search"),
}
"""scripts/real/NAME.yaml -> the ways that are run."""


def config(name: str) -> Path:
    """Return the search file of a composition."""
    return CONFIGS / f"{name}.yaml"


def command(name: str, way: str, seed: int) -> list[str]:
    """Return the command line that starts a search of a composition, or goes on with it."""
    run = str(RUNS / f"{name}-{way.replace(' ', '-')}-{seed}")
    changes = [word for item in (*WAYS[way], f"seed={seed}") for word in ("--set", item)]
    return ["evomerge", "search", str(config(name)), "--run", run, *changes, "--resume"]


def finish(name: str, seeds: Sequence[int]) -> dict[str, list[evomerge.Run]]:
    """Run or go on with all searches of a composition; return way -> a run for each seed.

    Raises:
        CalledProcessError: a search failed.
    """
    found: dict[str, list[evomerge.Run]] = {way: [] for way in COMPOSITIONS[name]}
    for seed in seeds:
        for way, runs in found.items():
            words = command(name, way, seed)
            subprocess.run([sys.executable, "-m", *words], check=True)
            runs.append(evomerge.Run(words[words.index("--run") + 1]))
    return found


def base_score(name: str) -> Mapping[str, Mapping[str, float]]:
    """Return the base model's test scores with their intervals; they are measured only once."""
    kept = ROOT / f"base-{name}.json"
    if not kept.exists():
        base = yaml.safe_load(config(name).read_text(encoding="utf-8")).get("base")
        model = MODELS / "base" if base is None else CONFIGS / base
        scores = evomerge.evaluate(model, config(name))
        plain = {key: item.to_dict() for key, item in scores.items()}
        kept.write_text(json.dumps({"scores": plain}), encoding="utf-8")
    found: dict[str, dict[str, float]] = json.loads(kept.read_text(encoding="utf-8"))["scores"]
    return found
