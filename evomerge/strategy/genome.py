"""Search over genomes: a space says what they mean, an optimizer proposes them."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

from evomerge.optimize.protocol import Optimizer
from evomerge.scores import Outcome, Scores
from evomerge.space.protocol import Space
from evomerge.strategy.protocol import Origin, Proposal

log = logging.getLogger(__name__)


class GenomeStrategy:
    """Space + optimizer.

    Origins are `{"genome": [...]}`.

    Args:
        space: genome -> recipe.
        optimizer: a new one, of the run's seed.
        values: what scores come to, higher is better (`Ranking.values`).
    """

    def __init__(
        self, space: Space, optimizer: Optimizer, values: Callable[[Scores], tuple[float, ...]]
    ) -> None:
        self.space, self.optimizer, self._values = space, optimizer, values
        self._baselines = space.baseline_genomes()
        self._trials: dict[int, int] = {}
        self._asked = 0
        self._warned = False

    @property
    def generation(self) -> int:
        """The optimizer's population."""
        return self.optimizer.population

    @property
    def left(self) -> int:
        """How many more trials the current generation takes."""
        return self.generation - self._asked % self.generation

    def take(self, number: int, label: str) -> Origin:
        """Enqueue a baseline's genome, where the space has one for it, and open its trial."""
        genome = self._baselines.get(label)
        if genome is None:
            return {}
        self.optimizer.enqueue(genome)
        self._open(number)
        return {"genome": list(genome)}

    def ask(self, number: int) -> Proposal:
        """Propose the optimizer's next genome."""
        genome = self._open(number)
        return Proposal(self.space.decode(genome), {"genome": list(genome)})

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Open the same trial again.

        Where floating point differs from the machine that wrote the journal, the recorded genome
        stays what was tried.

        Raises:
            ValueError: the origin is no genome of this space.
        """
        if "genome" not in origin:
            return
        genome = tuple(map(float, origin["genome"]))
        if label is not None:
            self.optimizer.enqueue(genome)
        asked = self._open(number)
        if asked == genome:
            return
        self.optimizer.amend(self._trials[number], genome)
        if not self._warned:
            self._warned = True
            log.warning(
                "This machine computes genomes that differ by up to %.2g from the recorded ones; "
                "the recorded ones stay, and the search goes on.",
                max(abs(new - old) for new, old in zip(asked, genome, strict=True)),
            )

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell the optimizer the values of a candidate that it knows."""
        if number not in self._trials:
            return
        values = self._values(outcome) if isinstance(outcome, Scores) else None
        if values is not None and not all(map(math.isfinite, values)):
            values = None
        self.optimizer.tell(self._trials[number], values)

    def _open(self, number: int) -> tuple[float, ...]:
        self._trials[number], genome = self.optimizer.ask()
        self._asked += 1
        return genome
