"""The ask/tell interface of search strategies."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

from evomerge.execute.protocol import Work
from evomerge.recipe import Recipe
from evomerge.scores import Outcome
from evomerge.space.protocol import Genome

Origin: TypeAlias = Mapping[str, Any]
"""Where a recipe came from, as plain JSON that the journal keeps: for example a genome."""


class Strategy(Protocol):
    """Proposes recipes and is told their outcomes, by the number of a candidate in the run.

    Laws: a new instance that gets the same calls proposes the same recipes, bit for bit, in another
    process too. `ask` never waits for a `tell`. Outcomes may be told in any order, or never.
    """

    @property
    def generation(self) -> int:
        """Size of a generation: how many proposals can be asked for before one of them is told."""

    @property
    def left(self) -> int:
        """Largest number of proposals that the current generation still lacks.

        Between two generations this is the size of the next one: `generation`.
        """

    def add_baseline(self, number: int, label: str) -> Origin:
        """Add a baseline; return its origin, empty if this strategy cannot represent it."""

    def ask(self, number: int) -> tuple[Recipe, Origin]:
        """Propose a recipe for the candidate with this number; return it and its origin."""

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Repeat an `add_baseline` or an `ask` that the journal records; its origin counts."""

    def tell(self, number: int, outcome: Outcome) -> None:
        """Tell the outcome of a candidate or baseline."""


@runtime_checkable
class Believing(Strategy, Protocol):
    """A strategy that compares the candidates of one generation only.

    So each generation may be scored on documents of its own, and a recipe may come again.
    """

    @property
    def start(self) -> Sequence[Genome]:
        """What is proposed before the first generation."""

    def believed(self) -> tuple[Recipe, Origin]:
        """Return the recipe that is the best one as far as the strategy knows, and its origin."""


@runtime_checkable
class Preparing(Strategy, Protocol):
    """A strategy whose proposals need work of workers, such as steps of a descent.

    Before `ask` it is done, in any order, and `prepared` is told each result.
    """

    def preparations(self) -> Mapping[int, Work]:
        """Return the work that the next proposals need and that is not done yet, by slot."""

    def prepared(self, slot: int, result: Mapping[str, Any]) -> None:
        """Take the result of a work, as it is in the journal."""
