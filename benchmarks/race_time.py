"""Measures what racing saves of the CPU time of a search, beside what it saves of the documents.

    python benchmarks/race_time.py SEARCH_FILE [--candidates N] [--documents N] [--quick]

The search proposes its candidates as without racing. Each is merged once and then scored twice: on
all search documents, and in a race against the best candidate at the start of its generation, as a
raced search would score it. So both are measured side by side, on the same models. As in a search,
the baselines are scored on all documents, and so is a finalist whose score is an estimate. Times
are CPU seconds on one thread. Printed are the documents and the times of both ways, and the score
of the best candidate of each; then, for the uniform merge, the time of a document by the number of
documents that are scored at once. The last line is one JSON object: the shares of racing, without
and with the time of merging, and the difference of the best scores in points.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from evomerge.config.schema import SearchConfig, load, parse
from evomerge.errors import CandidateError
from evomerge.evaluation.racing import score_in_race
from evomerge.evaluation.tasks.documents import in_order
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Scores, fitness
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.runs import prepare
from evomerge.setup.strategy import make_strategy
from evomerge.setup.worker import make_race, make_worker

SIZES = (5, 10, 25, 50, 100)
FAILED = Failure("evaluate", "The candidate could not be scored.")

T = TypeVar("T")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, help="a search file")
    parser.add_argument("--candidates", type=int, default=16, help="baselines included")
    parser.add_argument("--documents", type=int, help="search documents, in place of the file's")
    parser.add_argument("--quick", action="store_true", help="two generations, 150 documents")
    options = parser.parse_args()
    if options.quick:
        options.candidates, options.documents = 24, 150
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    config = raced(load(options.file), options.documents)
    measured = Measured(prepare(config, options.file.parent), options.candidates)
    shares = measured.show()
    measured.show_sizes()
    print(json.dumps(shares))


def raced(config: SearchConfig, documents: int | None) -> SearchConfig:
    """Return a search file with racing enabled, and with this many search documents."""
    plain = config.model_dump(mode="json")
    evaluation = plain["evaluation"]
    evaluation |= {"threads": 1}
    evaluation["racing"] |= {"enabled": True}
    evaluation["search"] |= {} if documents is None else {"documents": documents}
    return parse(plain, "benchmark")


class Measured:
    """The candidates of a search, each scored in both ways.

    Attributes:
        full: scores on all search documents, by candidate; None: it failed.
        raced: scores of the race.
        seconds: CPU time of `merge`, `full` and `race` in all.
    """

    def __init__(self, problem: CheckedSearch, candidates: int) -> None:
        self.problem, self.candidates = problem, candidates
        self.worker = make_worker(problem, 1, 1)
        self.full: list[Scores | None] = []
        self.raced: list[Scores | None] = []
        self.seconds = {"merge": 0.0, "full": 0.0, "race": 0.0}
        self.run()

    def timed(self, phase: str, call: Callable[[], T]) -> T:
        """Return what a call returns, and add its CPU time to a phase."""
        began = time.process_time()
        try:
            return call()
        finally:
            self.seconds[phase] += time.process_time() - began

    def run(self) -> None:
        """Score the baselines, then one generation of proposals after the other."""
        policy = make_race(self.problem.config)
        assert policy is not None
        strategy = make_strategy(self.problem)
        for label, recipe in self.problem.space.baselines().items():
            strategy.add_baseline(len(self.full), label)
            self.score(recipe, None, [])
        told = 0
        while len(self.full) < self.candidates:
            best = self.best(self.raced)
            incumbent = None if best is None else self.raced[best]
            earlier = [scores for scores in self.raced if scores is not None]
            while True:
                recipe = strategy.ask(len(self.full))[0]
                self.score(recipe, incumbent, earlier[-policy.recent :])
                if strategy.left == strategy.generation or len(self.full) == self.candidates:
                    break
            for number in range(told, len(self.full)):
                strategy.tell(number, self.full[number] or FAILED)
            told = len(self.full)

    def score(self, recipe: Recipe, incumbent: Scores | None, earlier: list[Scores]) -> None:
        """Merge a candidate and score it in both ways; without an incumbent there is no race."""
        evaluator, policy = self.worker.evaluator, self.worker.race
        assert policy is not None
        full = race = None
        try:
            model = self.timed("merge", lambda: self.worker.build(recipe))
            full = self.timed("full", lambda: evaluator.score(model, "search"))
            if incumbent is None:
                race = full
                self.seconds["race"] = self.seconds["full"]
            else:
                about = (model, "search", incumbent, earlier, self.problem.objectives)
                race = self.timed("race", lambda: score_in_race(policy, evaluator, *about))
        except CandidateError as error:
            print(f"candidate {len(self.full)} failed: {error}")
        self.full.append(full)
        self.raced.append(race)

    def best(self, rows: list[Scores | None]) -> int | None:
        """Return the number of the best candidate that was scored on all documents."""
        whole = [n for n, scores in enumerate(rows) if scores is not None and not scores.expected]
        return max(whole, key=lambda n: (self.points(rows[n]), -n), default=None)

    def points(self, scores: Scores | None) -> float:
        assert scores is not None
        return 100 * fitness(self.problem.objectives, scores)

    def completed(self) -> Iterator[int]:
        """Yield the finalists whose scores are estimates, and replace these by full scores."""
        count = self.problem.config.evaluation.validation.finalists
        while True:
            scored = [n for n, scores in enumerate(self.raced) if scores is not None]
            finalists = sorted(scored, key=lambda n: (-self.points(self.raced[n]), n))[:count]
            estimated = [n for n in finalists if (s := self.raced[n]) is not None and s.expected]
            if not estimated:
                return
            for number in estimated:
                self.raced[number] = self.full[number]
                yield number

    def show(self) -> dict[str, float]:
        """Print the table, and return the shares of racing."""
        rows = [scores for scores in self.full if scores is not None]
        total = sum(sum(scores.fidelity.values()) for scores in rows)
        documents = sum(sum(s.fidelity.values()) for s in self.raced if s is not None)
        each = sum(rows[0].fidelity.values())
        for _ in self.completed():
            documents += each
            self.seconds["race"] += self.seconds["full"] / len(rows)
        best, won = self.best(self.full), self.best(self.raced)
        assert best is not None and won is not None
        merge, full, race = (self.seconds[name] for name in ("merge", "full", "race"))
        print(f"\n{'':20}{'documents':>10}{'scoring, s':>12}{'merging, s':>12}{'best':>8}")
        for name, count, seconds, number in (
            ("all documents", total, full, best),
            ("racing", documents, race, won),
        ):
            points = self.points(self.full[number])
            print(f"{name:20}{count:10}{seconds:12.1f}{merge:12.1f}{points:8.1f}")
        return {
            "documents": round(documents / total, 3),
            "scoring": round(race / full, 3),
            "scoring and merging": round((race + merge) / (full + merge), 3),
            "points": round(self.points(self.full[won]) - self.points(self.full[best]), 2),
        }

    def show_sizes(self) -> None:
        """Print the CPU time of a document by the number of documents that are scored at once."""
        *_, uniform = self.problem.space.baselines().values()
        model = self.worker.build(uniform)
        print(f"\n{'documents at once':20}{'CPU ms a document':>20}")
        every = self.problem.splits["search"]
        total = sum(map(len, every.values()))
        for size in (*(size for size in SIZES if size < total), total):
            part = {
                task: [ids[i] for i in in_order(len(ids), "sizes")[: len(ids) * size // total]]
                for task, ids in every.items()
            }
            began = time.process_time()
            self.worker.evaluator.answer(model, "search", part)
            spent = time.process_time() - began
            print(f"{size:<20}{1000 * spent / size:20.1f}", flush=True)


if __name__ == "__main__":
    main()
