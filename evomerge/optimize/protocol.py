"""The ask/tell protocol every optimizer speaks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

Genome: TypeAlias = tuple[float, ...]


class Optimizer(Protocol):
    """Proposes genomes and is told how good they were.

    Laws: a new instance put through the same calls proposes the same genomes; `ask` never waits
    for a `tell`; several trials may be open and told in any order; a lost trial, a failure, a
    repeated genome never break it. State has no other home than the calls.
    """

    def ask(self) -> tuple[int, Genome]:
        """Open a trial: return its number (0, 1, 2, ...) and the genome to try."""
        ...

    def tell(self, trial: int, values: Sequence[float] | None) -> None:
        """Close a trial: objective values (higher is better), or None for a failed candidate.

        A failed candidate counts as the worst finite value told so far.
        """
        ...

    def suggest(self, genome: Genome) -> None:
        """Make the next `ask` propose this genome (a parent, the uniform merge, a past best)."""
        ...
