"""The ask/tell interface of all optimizers, and how they are made."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any, Protocol, cast, runtime_checkable

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

    def ask(self) -> Genome:
        """Return the genome to try next."""

    def replay(self, genome: Genome) -> Genome:
        """Repeat an `ask` of a search that is resumed: `genome` is what it returned then.

        `tell` will tell this genome.

        Returns:
            The genome that this machine computes, which may differ. An optimizer that computes
            nothing here returns the same genome.
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


class _Recording:
    """An optimizer of an earlier release, whose `ask` takes the recorded genome."""

    def __init__(self, optimizer: Any) -> None:
        self._optimizer = optimizer

    def __getattr__(self, name: str) -> Any:
        if name == "_optimizer":  # a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._optimizer, name)

    def replay(self, genome: Genome) -> Genome:
        """Repeat an `ask`; see `Optimizer`."""
        return cast(Genome, self._optimizer.ask(genome))


def with_replay(optimizer: Any) -> Optimizer:
    """Return an optimizer, with `replay` if its `ask` takes the recorded genome.

    An earlier protocol asked for that, and packages that were written for it go on working.
    """
    kinds = type(optimizer).__mro__
    replays = next(
        (place for place, kind in enumerate(kinds) if "replay" in vars(kind)), len(kinds)
    )
    asks = next((kind for kind in kinds[:replays] if "ask" in vars(kind)), None)
    is_old = asks is not None and len(signature(vars(asks)["ask"]).parameters) > 1
    if not is_old or isinstance(optimizer, _Recording):
        return cast(Optimizer, optimizer)
    warnings.warn(
        f"The optimizer {type(optimizer).__name__} has no method `replay(genome)`, so its "
        "`ask(recorded)` is called instead; divide it in two (docs/how-to/own-optimizer.md).",
        DeprecationWarning,
        stacklevel=2,
    )
    return cast(Optimizer, _Recording(optimizer))


@runtime_checkable
class Believing(Optimizer, Protocol):
    """An optimizer that compares the genomes of one generation only."""

    def believed(self) -> Genome:
        """Return the genome that is the best one as far as it knows, such as its mean."""
