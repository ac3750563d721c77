"""One descent, and then evolution from where it ended, with small steps and on the metric itself.

The strategy that follows begins at the best candidate so far. Of the candidates before, it is told
the baselines.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from evomerge.optimize.descent import Leg, Reached
from evomerge.scores import Outcome
from evomerge.space.protocol import Gene, Genome
from evomerge.strategy.gradient import GradientStrategy
from evomerge.strategy.protocol import Origin, Proposal, Strategy

NEAR = 0.05
"""Initial step of an optimizer that goes on where a descent ended, as a share of a gene's range."""


def near(genes: Sequence[Gene], genome: Genome) -> list[Gene]:
    """Return genes with which an optimizer begins beside a genome, with small steps."""
    return [
        replace(gene, start=value, sigma=NEAR * (gene.high - gene.low))
        if gene.kind == "real"
        else gene
        for gene, value in zip(genes, genome, strict=True)
    ]


class GradientFirst:
    """A descent, and then another strategy that begins where it ended: evolution from there.

    Args:
        first: makes one descent at a time; only its first descent is made.
        make_second: makes the strategy that follows, given the genome to begin at.
    """

    def __init__(self, first: GradientStrategy, make_second: Callable[[Genome], Strategy]) -> None:
        self._first, self._make = first, make_second
        self._second: Strategy | None = None
        self._baselines: dict[int, str] = {}
        self._outcomes: dict[int, Outcome] = {}
        """The outcomes of baselines."""

    @property
    def _now(self) -> Strategy:
        return self._second or self._first

    @property
    def generation(self) -> int:
        """Number of points of a round of the descent, or the generation of what follows."""
        return self._now.generation

    @property
    def left(self) -> int:
        """What the current round or generation still lacks."""
        return self._now.left

    def add_baseline(self, number: int, label: str) -> Origin:
        """Add a baseline; what follows is told it, too."""
        self._baselines[number] = label
        return self._first.add_baseline(number, label)

    def legs(self) -> Mapping[int, Leg]:
        """Return the leg of the descent; none once it is over."""
        self._change()
        return {} if self._second else self._first.legs()

    def reach(self, place: int, reached: Reached) -> None:
        """Take the result of a leg."""
        self._first.reach(place, reached)

    def ask(self, number: int) -> Proposal:
        """Propose the next point of the descent, or what the other strategy proposes."""
        self._change()
        return self._now.ask(number)

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Repeat an `add_baseline` or an `ask`."""
        if label is not None:
            self._baselines[number] = label
        elif "descent" not in origin:
            self._change()
        self._now.repeat(number, label, origin)

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell the outcome of a candidate or baseline."""
        if number in self._baselines:
            self._outcomes[number] = outcome
        self._now.tell(number, outcome)

    def _change(self) -> None:
        """Begin the other strategy, if the descent is over and its points are told."""
        if self._second is not None or not self._first.is_first_done:
            return
        self._second = self._make(self._first.best)
        for number, label in self._baselines.items():
            self._second.add_baseline(number, label)
            if number in self._outcomes:
                self._second.tell(number, self._outcomes[number])
