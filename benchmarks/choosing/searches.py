"""A search by one optimizer, as `evomerge search` does it with one worker, and its winners."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from evomerge.optimize import create
from evomerge.space.protocol import Gene, Genome

FINALISTS = 5


@dataclass(frozen=True)
class Search:
    """The candidates of a search.

    Attributes:
        genomes: in the order in which they were proposed.
        values: their fitness on search documents; None: failed.
        seconds: CPU time of the optimizer alone.
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
    genes: Sequence[Gene],
    baselines: Sequence[Genome],
    score: Callable[[Genome], float | None],
    candidates: int,
    seed: int,
) -> Search:
    """Search once.

    Args:
        optimizer: its name.
        genes: the genes.
        baselines: genomes that are tried first.
        score: genome -> fitness.
        candidates: number of candidates, baselines included.
        seed: seed of the optimizer.
    """
    began = time.process_time()
    proposer = create(optimizer, genes, seed, budget=candidates)
    spent = time.process_time() - began
    for genome in baselines:
        proposer.enqueue(genome)
    genomes: list[Genome] = []
    values: list[float | None] = []
    scoring = 0.0
    while len(genomes) < candidates:
        began = time.process_time()
        trial, genome = proposer.ask()
        asked = time.process_time()
        value = score(genome)
        scored = time.process_time()
        proposer.tell(trial, None if value is None else (value,))
        scoring += scored - asked
        spent += (asked - began) + (time.process_time() - scored)
        genomes.append(genome)
        values.append(value)
    return Search(genomes, values, spent, scoring)


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
