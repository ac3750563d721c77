"""A search by one optimizer, as `evomerge search` does it with one worker, and its winners."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from evomerge.optimize import create
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Failure, Objective, Outcome, Scores
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.gradient.descents import GradientStrategy
from evomerge.strategy.gradient.lessons import Lessons
from evomerge.strategy.gradient.segment import Segment
from evomerge.strategy.protocol import Preparing, Strategy

FINALISTS = 5

BELIEVED = 2
"""So many of the finalists of a search with fresh documents are genomes that it believed in."""

FITNESS = Objective("world", "fitness")

WHOLE: dict[str, Any] = {"steps": 80, "batch": 80, "rate": 0.05}
"""Of `gradient whole`: every step learns from all documents but the watched ones of a world with
100, and is longer."""


@dataclass(frozen=True)
class Search:
    """The candidates of a search.

    Attributes:
        genomes: in the order in which they were proposed.
        values: their fitness on search documents; None: failed.
        seconds: CPU time of the strategy alone: the optimizer, and genomes turned into recipes.
        scoring: CPU seconds of building and scoring the candidates.
        clock: CPU seconds from the start until each candidate was scored, all of them.
        documents: number of documents that each candidate was scored on.
        generations: if every generation has fresh documents, the number of each candidate's; None:
            it was scored on the whole pool.
        baselines: so many of the first candidates are baselines.
    """

    genomes: Sequence[Genome]
    values: Sequence[float | None]
    seconds: float
    scoring: float = 0.0
    _: KW_ONLY
    clock: Sequence[float] = ()
    documents: Sequence[int] = ()
    generations: Sequence[int | None] = ()
    baselines: int = 0

    def complete(self, candidates: int) -> int:
        """Return how many of the first candidates are not of an unfinished generation."""
        count = min(candidates, len(self.genomes))
        if 0 < count < len(self.generations):
            last = self.generations[count]
            while last is not None and count and self.generations[count - 1] == last:
                count -= 1
        return count

    def finalists(self, candidates: int) -> list[int]:
        """Return the numbers of the best of the first candidates, the best first.

        With fresh documents: of the latest believed genomes and the best ones of the last
        generations, the latest first.
        """
        known = [-math.inf if value is None else value for value in self.values[:candidates]]
        if not self.generations:
            return sorted(range(len(known)), key=lambda number: -known[number])[:FINALISTS]
        of = dict(enumerate(self.generations[: self.complete(candidates)]))
        means = [n for n in of if of[n] is None and n >= self.baselines]
        best: dict[int, int] = {}
        for number, generation in of.items():
            if generation is None:
                continue
            if generation not in best or known[number] > known[best[generation]]:
                best[generation] = number
        return [*means[: -BELIEVED - 1 : -1], *[*best.values()][: BELIEVED - FINALISTS - 1 : -1]]


def search(
    optimizer: str,
    space: Space,
    score: Callable[[Genome], float | None],
    candidates: int,
    seed: int,
    make: Callable[[Segment], Mapping[str, Any]] | None = None,
    documents: Mapping[str, Sequence[int]] | None = None,
    population: int | None = None,
) -> Search:
    """Search once.

    Args:
        optimizer: its name; for descents `gradient` or `gradient whole`.
        space: what is searched; its baselines are tried first.
        score: genome -> fitness.
        candidates: number of candidates, baselines included.
        seed: seed of the optimizer.
        make: makes a segment of a descent.
        documents: the search documents by task.
        population: genomes of a generation; None: as the optimizer likes.
    """
    began = time.process_time()
    strategy = _strategy(optimizer, space, candidates, seed, documents or {}, population)
    baselines = list(space.baseline_genomes())
    genomes: list[Genome] = []
    values: list[float | None] = []
    clock: list[float] = []
    scoring = 0.0
    pending: list[int] = []
    for number in range(candidates):
        if number < len(baselines):
            origin = strategy.add_baseline(number, baselines[number])
        else:
            if pending and (number == len(baselines) or strategy.left == strategy.generation):
                for known in pending:
                    strategy.tell(known, _outcome(values[known]))
                pending.clear()
            if isinstance(strategy, Preparing):
                for slot, segment in strategy.preparations().items():
                    asked = time.process_time()
                    assert make is not None and isinstance(segment, Segment)
                    result = make(segment)
                    scoring += time.process_time() - asked
                    strategy.prepared(slot, result)
            _, origin = strategy.ask(number)
        genomes.append(tuple(origin["genome"]))
        asked = time.process_time()
        values.append(score(genomes[-1]))
        scoring += time.process_time() - asked
        clock.append(time.process_time() - began)
        pending.append(number)
    each = sum(map(len, (documents or {}).values()))
    return Search(
        genomes,
        values,
        time.process_time() - began - scoring,
        scoring,
        clock=clock,
        documents=[each] * len(genomes),
        baselines=min(len(baselines), candidates),
    )


def _strategy(
    name: str,
    space: Space,
    candidates: int,
    seed: int,
    documents: Mapping[str, Sequence[int]],
    population: int | None,
) -> Strategy:
    ranking = WeightedSum([FITNESS])
    if not name.startswith("gradient"):
        made = create(name, space.genes, seed, population, budget=candidates)
        return GenomeStrategy(space, made, ranking)
    own: dict[str, Any] = WHOLE if name == "gradient whole" else {}
    return GradientStrategy(space, Lessons("reference", documents, seed), ranking, seed=seed, **own)


def _outcome(value: float | None) -> Outcome:
    if value is None:
        return Failure("evaluate", "It has no score.")
    return Scores({}, {}, {FITNESS.key: value})


@dataclass(frozen=True)
class Cost:
    """What a search has cost after some candidates.

    Attributes:
        candidates: number of them, baselines and believed genomes included.
        search: number of search documents that they were scored on.
        documents: the same with the validation documents of finalists and baselines.
        seconds: CPU time of all that, the optimizer included.
    """

    candidates: int
    search: int
    documents: int
    seconds: float


class Validation:
    """Scores finalists on validation documents, each once, and knows what that costs.

    Args:
        validate: genome -> fitness on validation documents.
        documents: number of these.
    """

    def __init__(self, validate: Callable[[Genome], float | None], documents: int) -> None:
        self._validate, self._documents = validate, documents
        self._known: dict[Genome, tuple[float | None, float]] = {}

    def winner(self, found: Search, candidates: int) -> tuple[int, float | None, Cost]:
        """Return which finalist or baseline is best, its value, and what all has cost so far.

        Args:
            found: a search.
            candidates: only the first ones count.
        """
        count = found.complete(candidates)
        numbers = dict.fromkeys([*found.finalists(count), *range(min(found.baselines, count))])
        values = {number: self._value(found.genomes[number]) for number in numbers}
        best = max(values, key=lambda n: (-math.inf if (it := values[n][0]) is None else it, -n))
        search = sum(found.documents[:count])
        cost = Cost(
            count,
            search,
            search + self._documents * len(values),
            found.clock[count - 1] + sum(seconds for _, seconds in values.values()),
        )
        return best, values[best][0], cost

    def _value(self, genome: Genome) -> tuple[float | None, float]:
        """Return the value of a genome, and the CPU seconds that it took when it was scored."""
        if genome not in self._known:
            began = time.process_time()
            value = self._validate(genome)
            self._known[genome] = value, time.process_time() - began
        return self._known[genome]
