"""Scores candidates of a run again, without a search: what a process of this machine can do.

    python benchmarks/scaling/limit.py RUN NUMBER COUNT

Process NUMBER of COUNT pins itself to its share of the cores, makes the worker of the run, prints
`ready`, waits for a line on its input, scores its share of the run's candidates, and prints how
many it has scored in a second. The baselines and the first generation, which the run's search
scores while its workers are starting, are left out.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from pathlib import Path

import torch

from evomerge.execute.protocol import Job
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup.runs import reopen
from evomerge.setup.strategy import recipe_of
from evomerge.setup.worker import make_worker


def main(run: Path, number: int, count: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number :: max(count, min(2, len(cores)))] or cores)
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    folder = RunFolder(run)
    problem, history = reopen(folder), History(folder.events())
    worker = make_worker(problem, count, 1)
    scored = [item for item in history.told if item.generation]
    jobs = [Job(item.number, item.number, recipe_of(problem.space, item)) for item in scored]
    worker(jobs[0])
    print("ready", flush=True)
    sys.stdin.readline()
    mine, began = jobs[number::count], time.perf_counter()
    for job in mine:
        worker(job)
    print(len(mine) / (time.perf_counter() - began), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
