"""What a search file says about its optimizer, in one object."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Setting:
    """How an optimizer is made.

    Attributes:
        seed: seed of all its random numbers, 0 or more.
        population: trials in a generation, or None for the default of the optimizer.
        sigma: initial step of genes without a step of their own, as a share of the gene's range, in
            (0, 1].
        budget: planned number of trials, or None if unknown. It may be checked; proposals must not
            depend on it, so that it can be raised later.
        objectives: number of values that `tell` gets.
        options: further options, as the optimizer defines them.
    """

    seed: int = 0
    population: int | None = None
    sigma: float = 1 / 6
    budget: int | None = None
    objectives: int = 1
    options: Mapping[str, Any] = field(default_factory=dict)
