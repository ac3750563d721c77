"""Runs the searches of the showcase, each as the commands `evomerge search` and `evomerge resume`.

A search that is finished is not run again; one that was interrupted is resumed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

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
    "hybrid": ("search",),
    "adapter": ("search", "gradients"),
    "three": ("search", "gradients"),
    "all": ("gradients",),
    "gemma": ("search", "gradients"),
    "qwen": ("search",),
    "encoders": ("search", "random search"),
}
"""configs/showcase-NAME.yaml -> the ways that are run."""


@dataclass(frozen=True)
class Search:
    """One search.

    Attributes:
        name: of `configs/showcase-NAME.yaml`.
        way: a key of `WAYS`.
        seed: of the optimizer and of the choice of search and validation documents.
    """

    name: str
    way: str
    seed: int

    @property
    def config(self) -> Path:
        """Its search file."""
        return CONFIGS / f"showcase-{self.name}.yaml"

    @property
    def run(self) -> Path:
        """Its run folder."""
        way = self.way.replace(",", "").replace(" ", "-")
        return RUNS / f"{self.name}-{way}-{self.seed}"

    @property
    def last_run(self) -> Path:
        """The run folder with its result: that of the last stage, if it has stages."""
        stages = yaml.safe_load(self.config.read_text(encoding="utf-8")).get("stages", [])
        return self.run / f"stage-{len(stages)}" if stages else self.run

    def results(self) -> Mapping[str, Any] | None:
        """The JSON of `evomerge results`, or None if the search is not finished.

        Raises:
            subprocess.CalledProcessError: evomerge ended with an error, which it has printed.
        """
        if not (self.last_run / "journal.jsonl").exists():
            return None
        found: dict[str, Any] = json.loads(_evomerge("results", self.last_run, "--json"))
        rows = found["standings"]["rows"]
        return found if rows and all(row["splits"]["test"] for row in rows) else None

    def finish(self) -> Mapping[str, Any]:
        """Run or resume the search unless it is finished. Returns its results.

        Raises:
            subprocess.CalledProcessError: evomerge ended with an error, which it has printed.
            RuntimeError: the search ended without test scores.
        """
        results = self.results()
        if results is None:
            if self.run.exists():
                _evomerge("resume", self.run)
            else:
                changes = [f"seed={self.seed}", *WAYS[self.way]]
                sets = [part for change in changes for part in ("--set", change)]
                _evomerge("search", self.config, "--run", self.run, *sets)
            results = self.results()
        if results is None:
            raise RuntimeError(f"{self.run} ended without scores on test documents")
        return results


def base_score(name: str) -> Mapping[str, Any]:
    """The base model's test scores, as the JSON of `evomerge evaluate`; measured only once."""
    kept = ROOT / f"base-{name}.json"
    if not kept.exists():
        config = CONFIGS / f"showcase-{name}.yaml"
        base = yaml.safe_load(config.read_text(encoding="utf-8")).get("base")
        model = MODELS / "base" if base is None else CONFIGS / base
        answer = _evomerge("evaluate", model, "--config", config, "--json")
        kept.write_text(answer, encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def _evomerge(*arguments: str | Path) -> str:
    """Run evomerge. Returns what it prints; its warnings and errors stay on the terminal."""
    words: Sequence[str] = [str(argument) for argument in arguments]
    print("evomerge", *words, file=sys.stderr)
    command = [sys.executable, "-m", "evomerge", *words]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
