"""Measures how far a search scales: the real driver of a search, with simulated workers.

    python benchmarks/scale.py [--quick]

The search loop, session, journal and optimizer are real, with 200 genes and 400 documents; the
workers are simulated on a virtual clock. It goes on by the CPU time of the driver between two calls
of the executor, by what it takes to pickle jobs and outcomes, and to the end of a job whenever the
driver waits. So a driver that is too slow leaves simulated workers without jobs, as it would real
ones. The time of a candidate is lognormal (sigma 0.5); 1 % take ten times as long.

`busy` is the share of their time in which the workers are busy, until the last candidate begins
(`arrival`) or has its outcome (`generation`); `driver` is CPU time a candidate. The last line is
one JSON object: order, workers and seconds of a candidate -> busy.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy is imported

import argparse
import hashlib
import heapq
import itertools
import json
import logging
import math
import pickle
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from evomerge.config.schema import BudgetConfig
from evomerge.execute.protocol import Job
from evomerge.merging.methods import get_method
from evomerge.optimize import create
from evomerge.problem.problem import Problem
from evomerge.recipe import Layer, Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Event
from evomerge.run.logbook import Logbook
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Objective, Outcome, Scores
from evomerge.searching.loop import Search
from evomerge.searching.session import Session
from evomerge.space.layer_genes import BlockStack
from evomerge.space.parameters import ParametersConfig, ParameterSpace
from evomerge.strategy.genome import GenomeStrategy

OBJECTIVE = Objective("task", "exact_match")
DOCUMENTS = 400
LATENCY = 0.001
"""Assumed seconds that a message is on its way from the driver to a worker, or back."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="8 and 64 workers")
    quick = parser.parse_args().quick
    logging.disable(logging.WARNING)
    ratios: dict[str, float] = {}
    print(f"{'':28}{'workers':>8}{'candidates':>11}{'busy':>8}{'driver, ms':>12}")
    for mean in (30.0,) if quick else (30.0, 3.0):
        for count in (8, 64) if quick else (8, 64, 256, 1024, 4096):
            arriving = max(400, min(12_000, 10 * count), 3 * count)
            ways = {"arrival": ("random", arriving), "generation": ("cma", 386)}
            # How long a candidate takes matters little where generations are the limit.
            for order in ways if mean == 30.0 else ("arrival",):
                optimizer, candidates = ways[order]
                busy, driver = simulate(optimizer, order, candidates, count, mean)
                name = f"{mean:g} s; {optimizer}, {order}"
                print(f"{name:28}{count:8}{candidates:11}{busy:8.1%}{1000 * driver:12.2f}")
                ratios[f"busy, {order}, {count} workers, {mean:g} s"] = round(busy, 3)
    print(json.dumps(ratios))


class UnmergedSession(Session):
    """A session that publishes recipes of this package only: its parents have no files."""

    def publish(self, front: Sequence[Candidate], best: Candidate) -> None:
        self.logbook.run.write("best.yaml", self.recipe(best).to_yaml())


def simulate(
    optimizer: str, order: str, candidates: int, workers: int, mean: float
) -> tuple[float, float]:
    """Return the share of the workers' time in which they are busy, and seconds of the driver."""
    space, ranking = space_of_200_genes(), WeightedSum((OBJECTIVE,))
    executor = SimulatedExecutor(workers, mean)
    marks: dict[str, tuple[float, float, float]] = {}

    def follow(history: History, event: Event) -> None:
        begins = event["event"] == "ask" and event["candidate"] == candidates - 1
        ends = event["event"] == "tell" and len(history.finished) == candidates
        if begins or ends:
            marks[event["event"]] = (executor.now, executor.done, executor.driven)

    def make_strategy(problem: Problem) -> GenomeStrategy:
        return GenomeStrategy(space, create(optimizer, list(space.genes), 0), ranking)

    with tempfile.TemporaryDirectory(dir=".", prefix=".simulated-") as folder:
        run = RunFolder.create(Path(folder, "run"), "{}", {"benchmark": True})
        config = SimpleNamespace(
            optimizer=SimpleNamespace(make=make_strategy),
            executor=SimpleNamespace(make=lambda problem, logbook: executor, order=order),
            evaluation=SimpleNamespace(
                search=SimpleNamespace(fresh=None), validation=SimpleNamespace(finalists=5)
            ),
            budget=BudgetConfig(candidates=candidates),
            seed=0,
            base=None,
            is_study=False,
        )
        problem: Any = SimpleNamespace(
            config=config, ranking=ranking, space=space, splits={"search": {}}, unlike_merges=()
        )
        with run.writing() as journal:
            session = UnmergedSession(problem, Logbook(run, journal, [follow]))
            Search(session).run()
            session.close()
    now, done, _ = marks["ask" if order == "arrival" else "tell"]
    return done / (workers * now), marks["tell"][2] / candidates


def space_of_200_genes() -> ParameterSpace:
    """Return a space of 200 genes: the weights of 4 parents in 48 blocks, embeddings and head."""
    nothing = Layer("", ())
    return ParameterSpace(
        ParametersConfig(groups="each", knobs={"weight": (0.0, 2.0), "lambda": 1.0}),
        [get_method("task_arithmetic")],
        parents=["org/base", *(f"org/expert-{number}" for number in range(1, 5))],
        base="org/base",
        frame=Recipe("org/base", {}, nothing, nothing),
        stacks=[BlockStack("model.layers", 48, {})],
    )


def made_up(job: Job, mean: float) -> tuple[float, Outcome]:
    """Return how long a job takes in seconds, and its outcome; both depend on the job only."""
    key = f"{job.recipe.digest}/{job.split}".encode()
    generator = random.Random(hashlib.sha256(key).digest())
    seconds = math.exp(generator.gauss(math.log(mean) - 0.125, 0.5))  # their mean is `mean`
    if generator.random() < 0.01:
        seconds *= 10
    numbers = np.random.default_rng(generator.getrandbits(64))
    values = tuple((numbers.random(DOCUMENTS) < 0.5).astype(float).tolist())
    ids = {OBJECTIVE.task: tuple(range(DOCUMENTS))}
    score = {OBJECTIVE.key: sum(values) / DOCUMENTS}
    spent = {"prepare": 0.0, "merge": 1.0, "evaluate": 29.0}
    return seconds, Scores(ids, {OBJECTIVE.key: values}, score, spent, cpu_seconds=spent)


class SimulatedExecutor:
    """Runs jobs on simulated workers; it gives jobs to free ones only when the driver calls it.

    Args:
        width: number of workers.
        mean: mean seconds of a job.
        make: job, mean -> seconds that it takes, outcome.
        clock: CPU seconds of the driver so far.

    Attributes:
        now: virtual seconds since the executor was made.
        driven: part of these that the driver took, pickling included.
    """

    def __init__(
        self,
        width: int,
        mean: float,
        make: Callable[[Job, float], tuple[float, Outcome]] = made_up,
        clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._width, self._mean, self._make, self._clock = width, mean, make, clock
        self.now = self.driven = self._busy = 0.0
        self._running: list[tuple[float, int, Job, bytes]] = []
        """Jobs that run, as a heap: end in virtual seconds, number, job, pickled outcome."""
        self._left = clock()

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        """Yield each job with its outcome, that which ends first first."""
        left, numbers = iter(jobs), itertools.count()
        while True:
            while len(self._running) < self._width:
                if (job := next(left, None)) is None:
                    break
                pickle.dumps(job)
                self._pass()
                seconds, outcome = self._make(job, self._mean)
                self._busy += seconds
                end = self.now + seconds + 2 * LATENCY
                row = (end, next(numbers), job, pickle.dumps(outcome))
                heapq.heappush(self._running, row)
                self._left = self._clock()
            if not self._running:
                return
            end, _, job, pickled = heapq.heappop(self._running)
            self.now = max(self.now, end)
            self._left = self._clock()
            yield job, pickle.loads(pickled)
            self._pass()

    def close(self) -> None:
        """Drop all jobs."""
        self._running.clear()

    @property
    def done(self) -> float:
        """Seconds that all workers together have been busy until now."""
        return self._busy - sum(max(0.0, end - self.now) for end, *_ in self._running)

    def _pass(self) -> None:
        """Let the time pass that the driver has taken since it was looked at last."""
        now = self._clock()
        self.now, self.driven = self.now + now - self._left, self.driven + now - self._left
        self._left = now


if __name__ == "__main__":
    main()
