"""The ask/tell interface of all optimizers, and how they are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from evomerge.space.protocol import Genome


@dataclass(frozen=True)
class Setting:
    """What a search file says about its optimizer.

    Attributes:
        seed: seed of all its random numbers, 0 or more.
        population: trials in a generation, or None for the default of the optimizer.
        sigma: initial step of genes without a step of their own, as a share of the gene's range, in
            (0, 1]; choices have none.
        budget: planned number of trials, or None if unknown. It may be checked; proposals must not
            depend on it, so that it can be raised later.
    """

    seed: int = 0
    population: int | None = None
    sigma: float = 1 / 6
    budget: int | None = None
    objectives: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)


class Optimizer(Protocol):
    """Proposes genomes and learns from their objective values.

    Laws, which `evomerge.testing.check_optimizer` checks:

    - After the same calls, a new instance proposes the same genomes, bit for bit, also in another
      process. Python's and numpy's global random generators are neither used nor changed.
    - `ask` never waits for a `tell`: any number of trials may be open, and they may be told in any
      order.
    - Trials that are never told, failures, NaN and repeated genomes are no errors.
    - A genome that has been asked is not proposed again unless it is enqueued again, or the space
      has hardly anything else left.
    """

    @property
    def population(self) -> int:
        """Trials in a generation; 1 for optimizers without generations."""

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""

    def tell(self, trial: int, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Close a trial: objective values (higher is better), or None for a failed candidate.

        A candidate that breaks constraints (`violation` above 0) is worse than each that breaks
        none, and the worse the more it breaks them.

        A failed candidate, or one with a value that is not finite, is worse than all others, those
        included that break constraints. Failures are equal to each other.

        Raises:
            ValueError: no such trial is open, or the optimizer takes another number of values.
        """

    def enqueue(self, genome: Genome) -> None:
        """Add a genome (of a parent, for example) to the queue that `ask` proposes first.

        Raises:
            ValueError: the genome does not belong to the space.
        """

    def amend(self, trial: int, genome: Genome) -> None:
        """Replace the genome of an open trial by the one that was really tried.

        This is for a search that is resumed on other hardware, where the replayed proposals may
        differ from the recorded genomes. The optimizer then learns from the recorded ones.

        Raises:
            ValueError: no such trial is open, or the genome does not belong to the space.
        """
