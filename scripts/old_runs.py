"""Makes the runs of an earlier release that `tests/run/test_old_runs.py` goes on with.

    git worktree add --detach CHECKOUT 6ea4dca7
    python -m scripts.old_runs CHECKOUT FOLDER [NAME ...]

Each search of `SEARCHES` begins with the code of CHECKOUT and is killed in the middle. A copy of
the run goes on with the same code to its end. FOLDER then has, for each search:

    NAME/run/          the run as the kill left it, without its log
    NAME/rest.jsonl    the lines that its journal lacks at the kill
    expected.yaml      NAME -> digests of what the search has published, and of an exported merge

Nothing names a path of this machine. Everything runs on one thread. The kill comes a few lines
earlier or later each time, so runs that are made again differ in that.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from scripts.same.kept import model

KEPT = ("search.yaml", "manifest.json", "journal.jsonl", "best.yaml", "front", "*s.jsonl")
"""Patterns of the files of a run that are kept."""

SEARCHES: dict[str, Any] = yaml.safe_load("""
base: &base
  seed: 1
  parents: [zoo:language, zoo:maths]
  base: zoo:base
  dtype: float32
  space: &space {method: task_arithmetic, groups: 2, knobs: &weight {weight: [0.0, 2.0]}}
  optimizer: {name: cma, population: 4}
  objectives: [{task: zoo_l2_maths, metric: exact_match}]
  evaluation: &evaluation
    include: [zoo:tasks]
    search: {documents: 12}
    validation: {documents: 8, finalists: 2}
    test: {documents: 8}
  budget: {candidates: 12}

more:
  - &outside {host: zoo:maths, outside: {embeddings: zoo:language, head: zoo:language}}
  - &path {kind: dataflow, <<: *outside, layers: [3, 8]}
  - &choices {objectives: [{task: zoo_l2_maths_mc, metric: acc}, {task: zoo_facts}]}
  - &descent
    objectives: [{task: zoo_l2, metric: exact_match}, {task: zoo_maths, metric: exact_match}]
    budget: {candidates: 8}

searches:
  gp: {optimizer: {name: gp}, objectives: [{task: zoo_l2_maths, metric: exact_match, tie_breaker: nll}], budget: {candidates: 18}}
  cma: {dtype: bfloat16}
  diagonal-cma: {optimizer: {name: diagonal-cma, population: 4}, space: {method: ties, groups: each, components: [attention, mlp], knobs: {weight: [0.0, 2.0], density: [0.3, 0.9]}}}
  methods: {optimizer: {name: cma-margin, population: 4}, space: {method: [task_arithmetic, ties, dare_linear], method_per: group, groups: 2, knobs: {weight: [0.0, 2.0], density: [0.3, 0.9]}}}
  pool: {parents: [zoo:language, zoo:maths, zoo:facts], optimizer: {name: auto, population: 4}, space: {<<: *space, most_parents: 2}}
  two-points-de: {base: null, optimizer: {name: two-points-de, population: 4}, space: {<<: *path, variant: structured, repeats: 1, scales: [0.5, 1.5]}, <<: *choices}
  discrete-lengler: {base: null, optimizer: {name: discrete-lengler}, space: {kind: dataflow, variant: swaps, <<: *outside}, <<: *choices}
  front:
    mode: pareto
    base: null
    optimizer: {name: nsga2, population: 4}
    space: {<<: *path, variant: frankenmerge}
    objectives: [{task: zoo_l2, metric: nll}, {task: zoo_maths, metric: nll}, {metric: layers}]
    constraints: [{metric: parameters, at_most: 900000}]
  nevergrad: {base: null, optimizer: {name: "nevergrad:PSO"}, space: {<<: *path, variant: dropping, layers: [3, 6]}, executor: {order: arrival}, <<: *choices}
  random: {optimizer: {name: random}, space: {method: della_linear, smooth: true, groups: 3, knobs: {weight: [0.0, 2.0], density: [0.3, 0.9]}}}
  sobol: {base: null, optimizer: {name: sobol}, space: {<<: *path, variant: sakana, ends: free}, constraints: [{task: zoo_maths, metric: nll, at_most: 3.0}]}
  grid: {base: null, optimizer: {name: grid}, space: {method: slerp, embeddings: false, knobs: {t: [0.0, 1.0]}}}
  gradient: {<<: *descent, optimizer: {name: gradient, steps: 10}}
  experts: {<<: *descent, optimizer: {name: gradient, steps: 10, loss: experts}}
  processes: {executor: {kind: processes, workers: 2, order: generation}}
  ray: {executor: {kind: ray, workers: 1, ray: {resources: {CPU: 1}}}}
""")  # noqa: E501


def main() -> None:
    """Run the command that the module's documentation describes."""
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("names", nargs="*", default=[*SEARCHES["searches"]])
    arguments = parser.parse_args()
    table = arguments.folder / "expected.yaml"
    for name in arguments.names:
        search = SEARCHES["base"] | SEARCHES["searches"][name]
        with tempfile.TemporaryDirectory() as work:
            expected = make(search, arguments.checkout, Path(work), arguments.folder / name)
        known = yaml.safe_load(table.read_text()) if table.exists() else {}
        table.write_text(yaml.safe_dump({**known, name: expected}))
        print(name, flush=True)


def make(search: Mapping[str, Any], checkout: Path, work: Path, target: Path) -> dict[str, Any]:
    """Make the files of one search; return what its test expects."""
    file, run, copy = work / "search.yaml", work / "run", work / "copy"
    file.write_text(yaml.safe_dump(search))
    kill(checkout, run, search["budget"]["candidates"] // 2, "search", file, "--run", run)
    move_to_root(run)
    shutil.copytree(run, copy)
    evomerge(checkout, "resume", copy)
    shutil.rmtree(target, ignore_errors=True)
    (target / "run").mkdir(parents=True)
    for pattern in KEPT:
        for path in run.glob(pattern):
            if path.is_dir():
                shutil.copytree(path, target / "run" / path.name)
            else:
                shutil.copy(path, target / "run")
    whole = (copy / "journal.jsonl").read_bytes().splitlines(keepends=True)
    before = (run / "journal.jsonl").read_bytes().count(b"\n")
    (target / "rest.jsonl").write_bytes(b"".join(whole[before:]))
    last = max(event["candidate"] for event in map(json.loads, whole) if event["event"] == "tell")
    evomerge(checkout, "export", copy, "--out", work / "model", "--candidate", last)
    return {
        "published": published(copy),
        "candidate": last,
        "weights": model(work / "model")["weights"],
    }


def published(run: Path) -> dict[str, str]:
    """Return a digest of each recipe of a run: that of its best merge, and those of its front."""
    files = [run / "best.yaml", *sorted(run.glob("front/*.yaml"))]
    return {path.stem: hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files}


def move_to_root(run: Path) -> None:
    """Let relative paths of a run begin at `/`; the digest of its manifest is made again."""
    file = run / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["folder"] = "/"
    del manifest["digest"]
    content = [yaml.safe_load((run / "search.yaml").read_text()), manifest]
    text = json.dumps(content, sort_keys=True, ensure_ascii=False)
    manifest["digest"] = hashlib.sha256(text.encode()).hexdigest()[:16]
    file.write_text(json.dumps(manifest, indent=1) + "\n")


def kill(checkout: Path, run: Path, tells: int, *arguments: Any) -> None:
    """Start a command, and kill it and its workers when candidates have so many outcomes."""
    process, journal = start(checkout, *arguments), run / "journal.jsonl"
    while not journal.exists() or journal.read_bytes().count(b'"event":"tell"') < tells:
        if process.poll() is not None:
            sys.exit(f"{arguments} ended before it was killed")
        time.sleep(0.002)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def evomerge(checkout: Path, *arguments: Any) -> None:
    """Run a command to its end."""
    if start(checkout, *arguments).wait():
        sys.exit(f"{arguments} failed")


def start(checkout: Path, *arguments: Any) -> subprocess.Popen[bytes]:
    """Start a command of the release, on one thread, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *map(str, arguments)],
        cwd=checkout,
        env={
            **os.environ,
            "PYTHONPATH": str(checkout),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
        },
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


if __name__ == "__main__":
    main()
