"""The ask/tell protocol every optimizer speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from evomerge.space.protocol import Genome


class Optimizer(Protocol):
    """Proposes genomes and is told how good they were.

    Laws, which `evomerge.testing.check_optimizer` checks:

    - A new instance put through the same calls proposes the same genomes, bit for bit, in another
      process too, and leaves Python's and numpy's global random generators alone.
    - `ask` never waits for a `tell`: any number of trials may be open, and told in any order.
    - Trials that are never told, failures, NaN and repeated genomes do not break it.
    """

    @property
    def population(self) -> int:
        """Trials in a generation; 1 for optimizers that know none."""
        ...

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""
        ...

    def tell(self, trial: int, values: Sequence[float] | None) -> None:
        """Close a trial: objective values (higher is better), or None for a failed candidate.

        A failed candidate, or one with a value that is not finite, counts as the worst finite
        value told so far; before the first finite value it waits for that.

        Raises:
            ValueError: no such trial is open, or the optimizer wants another number of values.
        """
        ...

    def enqueue(self, genome: Genome) -> None:
        """Make the next `ask` propose this genome (a parent, the uniform merge, a past best).

        Several are proposed in the order they were enqueued.

        Raises:
            ValueError: the genome does not belong to the space.
        """
        ...

    def amend(self, trial: int, genome: Genome) -> None:
        """Say that what an open trial really tried is `genome`.

        For a resumed search on other hardware, where replayed asks differ from the recorded
        genomes: what was tried stays the truth, and the optimizer learns from that.

        Raises:
            ValueError: no such trial is open, or the genome does not belong to the space.
        """
        ...
