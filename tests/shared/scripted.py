"""A search with made-up outcomes: everything is real except building and scoring models."""

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from spaces import parameters

from evomerge.config.schema import BudgetConfig, parse
from evomerge.errors import SearchError
from evomerge.execute.protocol import Job
from evomerge.execute.worker import Worker
from evomerge.optimize import create
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate, History
from evomerge.run.journal import Journal
from evomerge.run.logbook import Logbook
from evomerge.run.ranking import Ranking, WeightedSum
from evomerge.scores import Failure, Objective, Outcome, Scores, Split
from evomerge.searching.loop import Search
from evomerge.searching.session import Session
from evomerge.space.parameters import ParameterSpace
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.protocol import Strategy

OBJECTIVES = (Objective("task", "acc"),)
DOCUMENTS = 8
POOL = {"task": tuple(range(DOCUMENTS))}


def space(parents: Sequence[str] = ("a", "b")) -> ParameterSpace:
    knobs = {"weight": (0.0, 1.0)}
    return parameters(["linear"], parents, None, layers=2, knobs=knobs, embeddings=False, groups=2)


def unit(*parts: object) -> float:
    """Return a number in [0, 1) that depends only on the parts."""
    digest = hashlib.sha256(repr(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def outcome_of(job: Job) -> Outcome:
    """Return the outcome of a job; it depends only on the job."""
    key = (job.recipe.digest, job.split)
    weights = [s.knobs["weight"] for s in job.recipe.every_layer().__next__().sources]
    right = round((1 - abs(weights[0] - 0.7) + 0.2 * unit(*key)) * DOCUMENTS)
    easy = sorted(POOL["task"], key=lambda document: unit(*key, document))[:right]
    ids = tuple((job.documents or POOL)["task"])
    acc = tuple(float(document in easy) for document in ids)
    both = {"task/acc": sum(acc) / len(acc), "task/size": round(8 * sum(weights)) / 8}
    return Scores({"task": ids}, {"task/acc": acc}, both)


class ScriptedExecutor:
    """Runs up to `width` jobs at a time, of which `ends` chooses the one that ends next.

    A share `failing` of the recipes fails. After so many outcomes (`dies_after`), `next` raises an
    error, as if it was killed. `score` makes up the outcome of a job that does not fail.
    """

    def __init__(
        self, width: int, ends: random.Random, failing: float = 0.0, dies_after: int | None = None,
        score: Callable[[Job], Outcome] = outcome_of,
    ) -> None:  # fmt: skip
        self.score, self.width, self.ends = score, width, ends
        self.failing, self.dies_after = failing, dies_after
        self.scored: list[tuple[int, str]] = []

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Outcome]]:
        left, running = iter(jobs), list[Job]()
        while True:
            running += islice(left, self.width - len(running))
            if not running:
                return
            if self.dies_after == 0:
                raise SearchError("killed")
            if self.dies_after is not None:
                self.dies_after -= 1
            job = running.pop(self.ends.randrange(len(running)))
            self.scored.append((job.candidate, job.split))
            if unit("fails", job.recipe.digest, job.split) < self.failing:
                yield job, Failure("evaluate", f"made to fail: {job.recipe.digest[:8]}")
            else:
                yield job, self.score(job)

    def close(self) -> None:
        pass


class MadeUpWorker(Worker):
    """A worker with made-up parts: `load` returns the resident model."""

    def __init__(
        self,
        load: Callable[[], Any],
        evaluator: Any,
        baselines: Sequence[Recipe],
        splits: Any = POOL,
    ) -> None:
        self.load = load
        config = {"parents": ["a", "b"], "objectives": [{"task": "task", "metric": "acc"}]}
        problem: Any = SimpleNamespace(
            config=parse(config, "made up"),
            evaluator=evaluator,
            space=SimpleNamespace(baselines=lambda: dict(enumerate(baselines))),
            splits=splits,
        )
        super().__init__(problem, threads=torch.get_num_threads())

    def _load(self) -> tuple[Any, None]:
        return self.load(), None


class StoppedLogbook(Logbook):
    """A logbook of a search that is asked to stop when a function says so."""

    stop: Callable[[], bool]

    @property
    def is_stopping(self) -> bool:
        return self.stop()


class UnpublishedSession(Session):
    """A session of parents without files."""

    def publish(self, front: Sequence[Candidate], best: Candidate) -> None:
        pass

    def _itself(self, candidate: Candidate, split: Split) -> None:
        pass


def strategy(
    optimizer: str, ranking: Ranking, searched: ParameterSpace, **how: Any
) -> GenomeStrategy:
    """Return a strategy; `how` are `is_fresh` and `start`."""
    count = len(ranking.objectives) if ranking.has_front else 1
    is_fresh = how.get("is_fresh", False)
    made = create(optimizer, searched.genes, 3, objectives=count, is_fresh=is_fresh)
    return GenomeStrategy(searched, made, ranking, **how)


def search(
    path: Path,
    executor: ScriptedExecutor,
    *,
    optimizer: str = "cma",
    order: str = "generation",
    candidates: int | None = 30,
    target: float | None = None,
    patience: int | None = None,
    fresh: int | None = None,
    start: Sequence[Genome] = (),
    followers: Sequence[Any] = (),
    ranking: Ranking = WeightedSum(OBJECTIVES),
    searched: Space | None = None,
    make: Callable[[], Strategy] | None = None,
    stop: Callable[[], bool] = lambda: False,
    bases: Sequence[Candidate] = (),
) -> History:
    """Start or continue a search in a folder, and return its history at the end."""
    searched = searched or space("ab")
    run = RunFolder(path) if path.exists() else RunFolder.create(path, "{}", {"made": "up"})
    with Journal(run.journal_path) as journal:
        logbook = StoppedLogbook(run, journal, followers)
        logbook.stop = stop
        how = {"is_fresh": fresh is not None, "start": start}
        make = make or (lambda: strategy(optimizer, ranking, searched, **how))
        config = SimpleNamespace(
            optimizer=SimpleNamespace(make=lambda problem: make()),
            also_texts=None,
            executor=SimpleNamespace(make=lambda problem, logbook: executor, order=order),
            evaluation=SimpleNamespace(
                search=SimpleNamespace(fresh=fresh), validation=SimpleNamespace(finalists=3)
            ),
            budget=BudgetConfig(candidates=candidates, target=target, patience=patience),
            seed=0, base=None, is_study=False,
        )  # fmt: skip
        problem: Any = SimpleNamespace(
            config=config, ranking=ranking, space=searched, splits={"search": POOL},
            unlike_merges=(),
        )  # fmt: skip
        session = UnpublishedSession(problem, logbook)
        session.bases = bases
        Search(session).run()
    return History(run.events())


def course(history: History) -> list[tuple[Any, ...]]:
    """Return what the search itself has found, without the final scores."""
    return [
        (item.digest, item.origin, item.generation, item.fresh, item.first_outcome)
        for item in history.candidates
    ]


def trajectory(history: History) -> list[tuple[Any, ...]]:
    """Return all that must be equal according to the law of width."""

    def of(item: Candidate) -> tuple[Any, ...]:
        place = (item.number, item.label, item.digest, item.origin, item.generation)
        return (*place, item.fresh, item.first_outcome, item.outcomes, item.values)

    winner = None if history.winner is None else history.winner.number
    return [*map(of, history.candidates), (winner, *(item.number for item in history.front))]
