"""A search by one optimizer, as `evomerge search` does it with one worker, and its winners."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.config.schema import GRADIENT
from evomerge.optimize import create
from evomerge.optimize.descent import Chunk, Reached
from evomerge.scores import Failure, Outcome, Scores
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.genome import GenomeStrategy
from evomerge.strategy.gradient import GradientStrategy
from evomerge.strategy.lessons import Lessons
from evomerge.strategy.protocol import Descending, Strategy

FINALISTS = 5

WHOLE = {"steps": 80, "batch": 80, "rate": 0.05}
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
    """

    genomes: Sequence[Genome]
    values: Sequence[float | None]
    seconds: float
    scoring: float = 0.0

    def finalists(self, candidates: int) -> list[int]:
        """Return the numbers of the best of the first candidates, the best first."""
        known = [-math.inf if value is None else value for value in self.values[:candidates]]
        return sorted(range(len(known)), key=lambda number: -known[number])[:FINALISTS]


def search(
    optimizer: str,
    space: Space,
    score: Callable[[Genome], float | None],
    candidates: int,
    seed: int,
    make: Callable[[Chunk], Reached] | None = None,
    documents: Mapping[str, Sequence[int]] | None = None,
) -> Search:
    """Search once.

    Args:
        optimizer: its name; for descents `gradient` or `gradient whole`.
        space: what is searched; its baselines are tried first.
        score: genome -> fitness.
        candidates: number of candidates, baselines included.
        seed: seed of the optimizer.
        make: makes a chunk of a descent.
        documents: the search documents by task, for descents.
    """
    began = time.process_time()
    strategy = _strategy(optimizer, space, candidates, seed, documents or {})
    baselines = list(space.baseline_genomes())
    genomes: list[Genome] = []
    values: list[float | None] = []
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
            if isinstance(strategy, Descending):
                for place, chunk in strategy.chunks().items():
                    asked = time.process_time()
                    assert make is not None
                    reached = make(chunk)
                    scoring += time.process_time() - asked
                    strategy.reach(place, reached)
            _, origin = strategy.ask(number)
        genomes.append(tuple(origin["genome"]))
        asked = time.process_time()
        values.append(score(genomes[-1]))
        scoring += time.process_time() - asked
        pending.append(number)
    return Search(genomes, values, time.process_time() - began - scoring, scoring)


def _strategy(
    name: str,
    space: Space,
    candidates: int,
    seed: int,
    documents: Mapping[str, Sequence[int]],
) -> Strategy:
    def values(scores: Scores) -> tuple[float, ...]:
        return (scores.aggregates["fitness"],)

    if not name.startswith(GRADIENT):
        return GenomeStrategy(space, create(name, space.genes, seed, budget=candidates), values)
    own = WHOLE if name == f"{GRADIENT} whole" else {}
    return GradientStrategy(space, Lessons("reference", documents, seed), values, seed=seed, **own)


def _outcome(value: float | None) -> Outcome:
    if value is None:
        return Failure("evaluate", "It has no score.")
    return Scores({}, {}, {"fitness": value})


def winner(
    found: Search, candidates: int, validate: Callable[[Genome], float | None]
) -> tuple[int, float | None]:
    """Return which finalist is best on validation documents, and its value there.

    Args:
        found: a search.
        candidates: only the first ones count.
        validate: genome -> fitness on validation documents.
    """
    values = {number: validate(found.genomes[number]) for number in found.finalists(candidates)}
    best = max(values, key=lambda n: (-math.inf if (value := values[n]) is None else value, -n))
    return best, values[best]
