"""Search strategies by name, beside the optimizers of genes.

Another package adds one with an entry point of the group `evomerge.strategies` whose object is a
`StrategyKind`. The origin of a proposal has the `genome` that the space decodes to its recipe: a
journal keeps no recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from evomerge.config.fields import Section
from evomerge.config.messages import parsed
from evomerge.config.schema import GRADIENT, SearchConfig
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.optimize import builtin
from evomerge.registry import Registry
from evomerge.scores import Constraint, Objective
from evomerge.space.protocol import Space
from evomerge.strategy.protocol import Strategy

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo

S = TypeVar("S", bound=Space)
O = TypeVar("O", bound=Section)  # noqa: E741


@dataclass(frozen=True, kw_only=True)
class StrategyKind(Generic[S]):
    """A strategy as search files name it in `optimizer.name`.

    Attributes:
        options: what `optimizer.options` is checked with; see `options_of`.
        space: returns the space for a search file and the opened host; ConfigError: a key does not
            suit the strategy.
        check: raises ConfigError if the objectives do not suit it.
    """

    about: str
    options: type[Section]
    space: Callable[[SearchConfig, Checkpoint], S]
    check: Callable[[SearchConfig, Sequence[Objective], TasksInfo], None]
    make: Callable[[SearchConfig, S, Sequence[Objective], Sequence[Constraint]], Strategy]


STRATEGIES: Registry[StrategyKind[Any]] = Registry("search strategy", "evomerge.strategies", {})


def strategy_names() -> dict[str, str]:
    """Return every strategy with one line about it: name -> line."""
    descents = "gradient descent on weights and other numbers, by answers or by the experts"
    return {GRADIENT: descents, **{name: STRATEGIES.get(name).about for name in STRATEGIES.names()}}


def strategy_kind(name: str) -> StrategyKind[Any] | None:
    """Return the strategy with a name; None if an optimizer of genes has it, or nothing."""
    if builtin(name) is not None:
        return None  # to ask other packages takes a while
    return STRATEGIES.get(name) if name in STRATEGIES.names() else None


def options_of(config: SearchConfig, kind: type[O]) -> O:
    """Return the options of a strategy, checked with a pydantic model of them, or a ConfigError."""
    return parsed(kind, config.optimizer.options, "optimizer.options")


def check_no_ties(config: SearchConfig) -> None:
    """Raise a ConfigError if an objective breaks ties: strategies compare scores by themselves."""
    for key in config.tie_breakers:
        raise ConfigError(
            f"The search file has {key}, but the optimizer {config.optimizer.name!r} does not "
            "compare candidates by one fitness; remove it, or choose an optimizer of genes, such "
            "as cma."
        )
