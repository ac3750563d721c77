"""The searches of the showcase: which search files, in which ways, and their results.

They are sweeps (`evomerge.sweep`): a search that is finished is not run again, and one that was
interrupted goes on.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

import evomerge
from evomerge.report.sweeps import SweepTable
from scripts.real.places import MODELS, ROOT, RUNS

CONFIGS = Path("configs")

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
"""configs/showcase-NAME.yaml -> the ways that are run."""


def config(name: str) -> Path:
    """Return the search file of a composition."""
    return CONFIGS / f"showcase-{name}.yaml"


def finish(name: str, seeds: Sequence[int]) -> SweepTable:
    """Run or go on with all searches of a composition; its groups are NAME-WAY.

    Raises:
        RuntimeError: a search failed.
    """
    ways = {way: WAYS[way] for way in COMPOSITIONS[name]}
    table = evomerge.sweep({name: config(name)}, RUNS, seeds=seeds, variants=ways)
    if table.failed:
        reasons = (f"{item.folder}: {item.error}" for item in table.failed)
        raise RuntimeError("\n".join(reasons))
    return table


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
