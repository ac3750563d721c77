"""The ask/tell interface of all optimizers, and how they are made."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from evomerge.space.protocol import Genome


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a search file says about its optimizer.

    Attributes:
        seed: seed of all its random numbers, 0 or more.
        population: genomes of a generation; None: as the optimizer likes.
        sigma: initial step of genes without a step of their own, a share of the range, in (0, 1].
        budget: planned number of genomes; None: unknown. Proposals must not depend on it, so that
            it can be raised later.
        objectives: number of values that `tell` gets, 1 unless with `mode: pareto`.
        is_fresh: whether each generation is scored on documents of its own. Then a genome may be
            asked again, and what was told of it before does not count.
    """

    seed: int = 0
    population: int | None = None
    sigma: float = 1 / 6
    budget: int | None = None
    objectives: int = 1
    is_fresh: bool = False


class Optimizer(Protocol):
    """Proposes genomes and learns from their objective values.

    Laws, which `evomerge.testing.check_optimizer` checks:

    - After the same calls, a new instance proposes the same genomes, bit for bit, also in another
      process. Python's and numpy's global random generators are neither used nor changed.
    - `ask` never waits for a `tell`: any number of genomes may be open, and they may be told in any
      order.
    - Genomes that are never told, failures, NaN and repeated genomes are no errors.
    - A genome that was asked or told is not proposed again, unless the space has hardly anything
      else left.
    """

    @property
    def population(self) -> int:
        """Genomes of a generation; 1 for optimizers without generations."""

    def ask(self, recorded: Genome | None = None) -> Genome:
        """Return the genome to try next.

        A search that is resumed gives the genome that it has recorded here. It is what `tell` will
        tell. What is returned then is the genome that this machine computes, which may differ, or
        the recorded one if nothing need be computed.
        """

    def tell(self, genome: Genome, values: Sequence[float] | None, violation: float = 0.0) -> None:
        """Learn the objective values of a genome (higher is better); None: the candidate failed.

        The genome need not come from `ask`: it may be that of a parent.

        A candidate that breaks constraints (`violation` above 0) is worse than each that breaks
        none, and the worse the more it breaks them. A failed candidate, or one with a value that is
        not finite, is worse than all others; failures are equal to each other.

        Raises:
            ValueError: the genome does not belong to the space, or the optimizer takes another
                number of values.
        """


@runtime_checkable
class Believing(Optimizer, Protocol):
    """An optimizer that compares the genomes of one generation only."""

    def believed(self) -> Genome:
        """Return the genome that is the best one as far as it knows, such as its mean."""
