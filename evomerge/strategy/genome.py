"""Search over genomes: an optimizer proposes genomes, a space turns them into recipes."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence

from evomerge.optimize.protocol import Optimizer
from evomerge.scores import Outcome, Scores
from evomerge.space.protocol import Genome, Space
from evomerge.strategy.protocol import Origin, Proposal

log = logging.getLogger(__name__)


class GenomeStrategy:
    """The strategy that consists of a space and an optimizer; origins are `{"genome": [...]}`.

    Args:
        space: turns genomes into recipes.
        optimizer: a new optimizer with the run's seed.
        values: returns the values that the optimizer maximises (`Ranking.values`).
        violation: returns by how much a candidate breaks constraints, 0 if it breaks none.
        start: genomes that are proposed first, after the baselines.
    """

    def __init__(
        self,
        space: Space,
        optimizer: Optimizer,
        values: Callable[[Scores], tuple[float, ...]],
        violation: Callable[[Scores], float] = lambda scores: 0.0,
        start: Sequence[Genome] = (),
    ) -> None:
        self.space, self.optimizer = space, optimizer
        self._values, self._violation = values, violation
        self._baselines = space.baseline_genomes()
        self._start = start
        self._trials: dict[int, int] = {}
        self._proposed = self._starting = 0
        self._warned = False

    @property
    def generation(self) -> int:
        """The population of the optimizer."""
        return self.optimizer.population

    @property
    def left(self) -> int:
        """Number of genomes that the current generation still lacks.

        Baselines, and the genomes of the start together, are told before the first generation. So
        it is of the optimizer's own genomes only, like all others.
        """
        return self._starting + self.generation - self._proposed % self.generation

    def add_baseline(self, number: int, label: str) -> Origin:
        """Propose the genome of a baseline, if the space has one for it."""
        genome = self._baselines.get(label)
        if genome is None:
            return {}
        self.optimizer.enqueue(genome)
        self._next_genome(number)
        return {"genome": list(genome)}

    def ask(self, number: int) -> Proposal:
        """Propose the next genome of the start; after these, the optimizer's."""
        self._enqueue_start()
        genome = self._next_proposal(number)
        return Proposal(self.space.decode(genome), {"genome": list(genome)})

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Propose the same genome again.

        Another machine may compute a slightly different genome, since floating-point results
        differ. The recorded genome counts: it is the one that was scored.

        Raises:
            ValueError: the origin is not a genome of this space.
        """
        if "genome" not in origin:
            return
        genome = tuple(map(float, origin["genome"]))
        if label is None:
            self._enqueue_start()
            computed = self._next_proposal(number)
        else:
            self.optimizer.enqueue(genome)
            computed = self._next_genome(number)
        if computed == genome:
            return
        self.optimizer.amend(self._trials[number], genome)
        if not self._warned:
            self._warned = True
            log.warning(
                "This machine computes a genome that differs by up to %.2g from the recorded one; "
                "the recorded genomes are used, and the search goes on.",
                max(abs(new - old) for new, old in zip(computed, genome, strict=True)),
            )

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell the optimizer the values of a candidate, or that it has none.

        Outcomes of baselines without a genome are ignored.
        """
        if number not in self._trials:
            return
        values = self._values(outcome) if isinstance(outcome, Scores) else None
        if values is not None and not all(map(math.isfinite, values)):
            values = None
        broken = self._violation(outcome) if isinstance(outcome, Scores) else 0.0
        self.optimizer.tell(self._trials[number], values, broken)

    def _enqueue_start(self) -> None:
        """Enqueue the genomes of the start; later calls do nothing.

        This waits for the first proposal, since the baselines are enqueued and asked one by one.
        """
        for genome in self._start:
            self.optimizer.enqueue(genome)
        self._starting += len(self._start)
        self._start = ()

    def _next_proposal(self, number: int) -> tuple[float, ...]:
        """Ask the optimizer for a genome of the start, or of its own."""
        if self._starting:
            self._starting -= 1
        else:
            self._proposed += 1
        return self._next_genome(number)

    def _next_genome(self, number: int) -> tuple[float, ...]:
        """Ask the optimizer for a genome, and note which trial the candidate is."""
        self._trials[number], genome = self.optimizer.ask()
        return genome
