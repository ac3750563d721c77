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
from evomerge.config.optimizer import OPTIMIZER_KINDS
from evomerge.config.schema import SearchConfig
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.optimize import builtin, optimizer_names
from evomerge.registry import Registry
from evomerge.scores import Constraint, Objective
from evomerge.space.protocol import Space
from evomerge.strategy.optimizers import GenomeOptimizer
from evomerge.strategy.protocol import Strategy

if TYPE_CHECKING:
    from evomerge.evaluation.tasks.info import TasksInfo
    from evomerge.problem.problem import Problem

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


class OtherStrategy(GenomeOptimizer):
    """A search strategy that another package adds, with the keys of an optimizer of genomes."""

    suits_studies = False
    has_own_space = True

    @property
    def kind(self) -> StrategyKind[Any]:
        """What the package has registered."""
        return STRATEGIES.get(self.name)

    def check_setting(self, config: SearchConfig) -> None:
        """Raise a ConfigError if an option is wrong."""
        options_of(config, self.kind.options)

    def resolve(self, config: SearchConfig, space: Space) -> SearchConfig:
        """Return the search file as it is."""
        return config

    def generation(self, config: SearchConfig, space: Space) -> int:
        """Return the population, 1 if it is `auto`."""
        return self.size or 1

    def space(self, config: SearchConfig, host: Checkpoint) -> Space:
        """Return the strategy's own space."""
        options_of(config, self.kind.options)
        space: Space = self.kind.space(config, host)
        return space

    def check(self, problem: Problem) -> None:
        """Raise a ConfigError if the objectives do not suit the strategy."""
        for key in problem.config.tie_breakers:
            raise ConfigError(
                f"The search file has {key}, but the optimizer {self.name!r} does not compare "
                "candidates by one fitness; remove it, or choose an optimizer of genes, such as "
                "cma."
            )
        self.kind.check(problem.config, problem.objectives, problem.evaluator.info)

    def make(self, problem: Problem) -> Any:
        """Return the strategy."""
        return self.kind.make(
            problem.config, problem.space, problem.objectives, problem.constraints
        )


def kind_of(name: str) -> type[GenomeOptimizer]:
    """Return the kind of an optimizer or strategy that has no kind of its own."""
    if builtin(name) is not None:
        return GenomeOptimizer  # to ask other packages takes a while
    return OtherStrategy if name in STRATEGIES.names() else GenomeOptimizer


def strategy_names() -> dict[str, str]:
    """Return every optimizer and every other strategy with one line about it: name -> line."""
    own = {name: OPTIMIZER_KINDS.get(name).about for name in OPTIMIZER_KINDS.builtin}
    others = {name: STRATEGIES.get(name).about for name in STRATEGIES.names()}
    return optimizer_names() | {name: about for name, about in own.items() if about} | others


def options_of(config: SearchConfig, kind: type[O]) -> O:
    """Return the options of a strategy, checked with a pydantic model of them, or a ConfigError."""
    assert isinstance(config.optimizer, GenomeOptimizer)
    return parsed(kind, config.optimizer.options, "optimizer.options")
