"""The ask/tell protocol over recipes that every search strategy speaks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

from evomerge.recipe import Recipe
from evomerge.scores import Outcome

Origin: TypeAlias = Mapping[str, Any]
"""Where a recipe came from, as plain JSON: a genome, or parents and a cut. Kept in the journal."""


@dataclass(frozen=True)
class Proposal:
    """A recipe to try.

    Attributes:
        recipe: what to build.
        origin: what `recipe` of the strategy that made it builds the recipe from again.
    """

    recipe: Recipe
    origin: Origin


class Strategy(Protocol):
    """Proposes recipes and is told what came out of them.

    Candidates are known to it by their numbers in the run. Its state follows from the calls alone:
    a new instance put through the same calls proposes the same recipes, bit for bit, also in
    another process; a resumed search relies on it. `ask` never waits for a `tell`; outcomes may be
    told in any order, or never.
    """

    @property
    def generation(self) -> int:
        """Proposals in a generation, all made before any of them is told; 1 if there are none."""
        ...

    @property
    def left(self) -> int:
        """How many more proposals the current generation takes; `generation` where it is full."""
        ...

    def take(self, number: int, label: str) -> Origin:
        """Take in a baseline (a parent, the uniform merge) as a candidate.

        Returns:
            its origin in the terms of this strategy, empty where it has no place for it.
        """
        ...

    def ask(self, number: int) -> Proposal:
        """Propose a recipe.

        Args:
            number: the candidate's number.
        """
        ...

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Repeat a `take` or an `ask` of the journal; what was tried then stays the truth.

        Raises:
            ValueError: there is no such origin in this strategy.
        """
        ...

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell what came out of a candidate, a baseline included."""
        ...
