"""Measures what each search of a sweep takes beside its work: what shared workers could save.

    python benchmarks/sweep_start.py [--quick] [FILE ...]

Each FILE is a search file (default: configs/quickstart.yaml and configs/evolution.yaml), searched
with seeds 0, 1 and 2 in this process, then with two worker processes. The libraries are loaded
by the first search, so only the later ones count: CPU seconds of this process and of all workers,
and those of them that are no work of the search (building, scoring, descents, final scores; see
`timings.jsonl`): checking the file, starting workers, loading parents, preparing documents,
comparing ways to score, the journal, and the optimizer. All but the last two could be saved by
workers that live on from one search to the next.

The last line is one JSON object: file and workers -> the share that is no work.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # CPU time is comparable with one thread only

import psutil

import evomerge
from evomerge.api.sweep import plan
from evomerge.run.folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
FILES = [ROOT / "configs" / name for name in ("quickstart.yaml", "evolution.yaml")]
EXECUTORS = {"this process": "inline", "two processes": "processes"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="search files")
    parser.add_argument("--quick", action="store_true", help="two seeds, eight candidates")
    options = parser.parse_args()
    seeds = 2 if options.quick else 3
    print("| search file | workers | candidates | CPU s a search | no work of it, s | share |")
    print("|---|---|---|---|---|---|")
    shares: dict[str, float] = {}
    for file in options.files or FILES[: 1 if options.quick else None]:
        for workers, kind in EXECUTORS.items():
            with tempfile.TemporaryDirectory() as folder:
                spent, work, candidates = searched(file, kind, Path(folder), seeds, options.quick)
            rest = spent - work
            row = f"{candidates} | {spent:.1f} | {rest:.2f} | {rest / spent:.3f}"
            print(f"| {file.stem} | {workers} | {row} |", flush=True)
            shares[f"{file.stem}, {workers}"] = round(rest / spent, 3)
    print(json.dumps(shares))


def searched(
    file: Path, kind: str, folder: Path, seeds: int, quick: bool
) -> tuple[float, float, int]:
    """Return means of all searches but the first: CPU s, those of work, candidates."""
    values = {"executor.kind": [kind], "executor.workers": [json.dumps(2)]}
    if kind == "inline":
        del values["executor.workers"]
    if quick:
        values["budget.candidates"] = ["8"]
    spent, work, candidates = 0.0, 0.0, 0
    for item in plan([file], folder, range(seeds), values):
        before = cpu_seconds()
        run = evomerge.search(dict(item.data), item.folder, progress=False)
        if item.seed > 0:
            spent += cpu_seconds() - before
            work += RunFolder(item.folder).timings.cpu_seconds()[1]
            candidates += len(run.candidates)
    later = seeds - 1
    return spent / later, work / later, candidates // later


def cpu_seconds() -> float:
    """Return the CPU seconds of this process and of all that it has started, ended ones too."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in [own, *own.children(recursive=True)])


if __name__ == "__main__":
    main()
