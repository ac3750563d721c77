"""The section `optimizer` of the search file: what is asked of every kind of it.

A kind is an optimizer of genomes, or a search strategy that has its own keys. The kinds are in
`evomerge.strategy`. Whoever must know something about the search asks the kind, not its name.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, cast

from pydantic import Field

from evomerge.config.fields import Kind, Names, Rule
from evomerge.registry import Registry

Problem: TypeAlias = Any
"""A `Problem`. Like the `Any` below (a search file, a space, a strategy), it imports this room."""


class OptimizerConfig(Kind):
    """The optimizer that proposes genomes."""

    name: Annotated[str, Names("evomerge.strategy.kinds:strategy_names")] = "auto"
    """one of `evomerge list optimizers`, or `nevergrad:` and a name of nevergrad's registry; auto:
    by the genes, the budget and the number of objectives of a front"""
    population: Annotated[int, Field(ge=2, le=10_000)] | Literal["auto"] = "auto"
    """candidates of a generation; auto: as the optimizer recommends"""

    search_rules: ClassVar[tuple[Rule, ...]] = ()
    """Rules that the whole search file must keep; see `Section.rules`."""
    steps_each: ClassVar[int] = 0
    """Steps against a gradient that a worker makes before each candidate."""
    needs_gradients: ClassVar[bool] = False
    """Whether workers run models backward. Then outcomes are told by generation."""
    suits_studies: ClassVar[bool] = False
    """Whether it needs nothing but the scores that a study is told."""

    has_own_space: ClassVar[bool] = False
    """Whether `space` returns a space, so that the section `space` says nothing."""

    @property
    def papers(self) -> tuple[str, ...]:
        """The publications of the algorithm, for `evomerge results`."""
        return ()

    @property
    def size(self) -> int | None:
        """The population; None: as the optimizer recommends."""
        return None if self.population == "auto" else self.population

    @property
    def keeps_right(self) -> bool:
        """Whether it must be told which generated answers are right (`Scores.right`)."""
        return False

    @property
    def few_documents(self) -> int | None:
        """Documents, of all tasks together, that are enough if all candidates have the same."""
        return None

    @property
    def needs_same_documents(self) -> str | None:
        """Why all candidates must be scored on the same documents; None: they need not."""
        raise NotImplementedError

    def check_name(self) -> None:
        """Raise a ConfigError if there is no such optimizer."""

    def check_setting(self, config: Any) -> None:
        """Raise a ConfigError if a key is wrong, whatever the parents are."""

    def check_starts(self, folder: Path) -> Iterator[str]:
        """Yield a sentence about each start that is no run."""
        return iter(())

    def space(self, config: Any, host: Any) -> Any:
        """Return the kind's own space for the opened host; None: the section `space` says it."""
        return None

    def resolve(self, config: Any, space: Any) -> Any:
        """Return the search file with what `auto` means for a space."""
        return config

    def generation(self, config: Any, space: Any) -> int:
        """Return the number of candidates in a generation; 1: there are no generations.

        ConfigError: there is no such optimizer, or a setting does not suit it.
        """
        return self.size or 1

    def starts(self, space: Any, folder: Path) -> tuple[tuple[float, ...], ...]:
        """Return the genomes to try first; ConfigError: they do not belong to this space.

        `folder`: where relative paths start from.
        """
        return ()

    def check(self, problem: Problem) -> None:
        """Raise a ConfigError if a problem does not suit it."""

    def warnings(self, problem: Problem, workers: int) -> Iterator[str]:
        """Yield what a user should read before a search with a number of workers."""
        candidates, baselines = problem.config.budget.candidates, len(problem.space.baselines())
        if candidates is None:
            return
        searched = candidates - baselines
        if searched <= 0 or (searched < baselines and not self.needs_gradients):
            yield (
                f"budget.candidates is {candidates}, but the {baselines} baselines (parents and "
                f"averages of them) count among them, so {max(0, searched)} are searched; set it "
                f"to {4 * baselines} or more."
            )

    def with_fresh_documents(self, problem: Problem) -> OptimizerConfig | None:
        """Return the optimizer that would find as good merges with fresh documents, if any."""
        return None

    @classmethod
    def instead(cls, problem: Problem) -> Any:
        """Return the problem with this kind of optimizer, if that needs fewer candidates."""
        return None

    def make(self, problem: Problem) -> Any:
        """Return a new strategy with the search's seed.

        ConfigError: there is no such optimizer, or a setting does not suit it.
        """
        raise NotImplementedError


class OptimizerKinds(Registry[type[OptimizerConfig]]):
    """The kinds of the section by `name`."""

    def get(self, name: str) -> type[OptimizerConfig]:
        """Return the kind with a name; for an unknown name, the kind of genome optimizers.

        So a run can be read when the package of its optimizer is not installed any more.
        """
        if name in self.builtin:
            return super().get(name)
        kind = import_module("evomerge.strategy.kinds").kind_of(name)
        return cast(type[OptimizerConfig], kind)


def with_fewer_candidates(problem: Problem) -> Problem | None:
    """Return a problem with a kind of optimizer that needs fewer candidates for it, if any."""
    others = (OPTIMIZER_KINDS.get(name).instead(problem) for name in OPTIMIZER_KINDS.builtin)
    return next((other for other in others if other is not None), None)


OPTIMIZER_KINDS = OptimizerKinds(
    "optimizer",
    "evomerge.strategies",
    {
        "auto": "evomerge.strategy.optimizers:GenomeOptimizer",
        "gradient": "evomerge.strategy.gradient.kind:Gradient",
    },
)
