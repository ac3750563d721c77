"""A search with the real loop, session, journal and strategy, and any executor."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from evomerge.config.space import ParametersConfig
from evomerge.execute.protocol import Executor
from evomerge.merging.methods import get_method
from evomerge.optimize import create
from evomerge.optimize.protocol import Optimizer
from evomerge.recipe import Layer, Recipe
from evomerge.run.attempts import Attempts
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate
from evomerge.run.logbook import Follower, Logbook
from evomerge.scores import Objective
from evomerge.searching.loop import Order, Plan, Search
from evomerge.searching.ranking import WeightedSum
from evomerge.searching.session import Session
from evomerge.setup.strategy import recipe_of
from evomerge.space.blocks import BlockStack
from evomerge.space.parameters import ParameterSpace
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.genome import GenomeStrategy

TASK, METRIC = "task", "exact_match"
"""Names of the only task and its metric."""

RACING = 40
"""The earlier candidates that a job carries if racing is enabled."""


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


def warm_up() -> None:
    """Import what optimizers import when they are first asked, so that no search is charged."""
    for optimizer in ("cma", "nevergrad:OnePlusOne"):
        create(optimizer, list(space_of_200_genes().genes), 0).ask()


@dataclass(frozen=True)
class Setting:
    """What is searched, and how.

    Attributes:
        space: turns genomes into recipes.
        optimizer: name of the optimizer.
        order: when the optimizer is told outcomes.
        candidates: number of candidates, baselines included.
        population: trials in a generation; None: the optimizer's own number.
        recent: number of earlier candidates whose scores each job carries; None: no racing.
    """

    space: Space
    optimizer: str
    order: Order
    candidates: int
    population: int | None = None
    recent: int | None = None

    @cached_property
    def ranking(self) -> WeightedSum:
        """The fitness is the only metric."""
        return WeightedSum((Objective(TASK, METRIC),))

    @property
    def name(self) -> str:
        """The optimizer and the order, the population if it is set, and whether it races."""
        population = "" if self.population is None else f" of {self.population}"
        racing = "" if self.recent is None else ", racing"
        return f"{self.optimizer}, {self.order}{population}{racing}"


class DriverClock:
    """The CPU time of the process that runs the search. It waits for no disk.

    Attributes:
        optimizer: CPU seconds in the optimizer so far, a part of the whole.
    """

    def __init__(self) -> None:
        self.optimizer = 0.0

    @property
    def seconds(self) -> float:
        """All CPU seconds so far; only differences have a meaning."""
        return time.process_time()


class _TimedOptimizer:
    """An optimizer whose calls are measured."""

    def __init__(self, inner: Optimizer, clock: DriverClock) -> None:
        self._inner, self._clock = inner, clock
        self.enqueue, self.amend = inner.enqueue, inner.amend

    @property
    def population(self) -> int:
        return self._inner.population

    def ask(self) -> tuple[int, Genome]:
        began = time.process_time()
        try:
            return self._inner.ask()
        finally:
            self._clock.optimizer += time.process_time() - began

    def tell(self, trial: int, values: Sequence[float] | None, violation: float = 0.0) -> None:
        began = time.process_time()
        self._inner.tell(trial, values, violation)
        self._clock.optimizer += time.process_time() - began


def run_search(
    folder: Path,
    setting: Setting,
    make_executor: Callable[[], Executor],
    clock: DriverClock,
    followers: Sequence[Follower] = (),
) -> Candidate:
    """Start or continue a search in a folder and return the winner.

    All is as in `evomerge search`, except that `best.mergekit.yaml` is not written, because it
    needs the files of the parents.

    Args:
        folder: the run folder; it is created if it does not exist.
        setting: what is searched, and how.
        make_executor: makes the executor; called when the first job is there.
        clock: measures this process.
        followers: are called with every event.
    """
    run = (
        RunFolder(folder)
        if folder.exists()
        else RunFolder.create(folder, "{}", {"benchmark": True})
    )
    space, ranking = setting.space, setting.ranking

    def make_strategy() -> GenomeStrategy:
        genes = list(space.genes)
        optimizer = create(setting.optimizer, genes, 0, setting.population)
        return GenomeStrategy(space, _TimedOptimizer(optimizer, clock), ranking.values)

    def publish(front: Sequence[Candidate], best: Candidate) -> None:
        run.write("best.yaml", recipe_of(space, best).to_yaml())

    with run.writing() as journal:
        session = Session(
            Logbook(run, journal, followers),
            make_executor,
            lambda candidate: recipe_of(space, candidate),
            ranking,
            setting.recent,
            Attempts(run.path / "attempts.jsonl"),
            publish,
        )
        plan = Plan(setting.candidates, None, None, finalists=5, order=setting.order)
        try:
            return Search(session, make_strategy, space.baselines(), plan).run()
        finally:
            session.close()
