"""The section `space` of a search file; its kinds are in `evomerge.space.kinds`."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from pydantic import Field

from evomerge.config.fields import Kind, OneOf

ABOUT = {
    "parameters": "the knobs of a merge, by layer group and component or tensor (PS)",
    "dataflow": "the path through the parents' layers, with scales (DFS)",
}
"""Kind -> one line about it."""


class SpaceKind(Kind):
    """What is searched: one way to fill the section `space`.

    Attributes:
        is_path: whether candidates differ in their layers rather than in weights.
        keeps_depth: whether each layer of a candidate is at the depth that it has in its parent.
    """

    kind: str
    host: str | None = None
    """parent that gives config and tokenizer; null: the first, or in a parameter space the base"""
    is_path: ClassVar[bool] = True
    keeps_depth: ClassVar[bool] = False

    @property
    def methods(self) -> tuple[str, ...]:
        """The merge methods whose knobs are searched."""
        return ()

    @property
    def has_pool(self) -> bool:
        """Whether a candidate merges some of the parents only."""
        return False

    @property
    def givers(self) -> Mapping[str, str | None]:
        """Key -> the parent that gives config, embeddings or head; None: the usual one."""
        return {"host": self.host}

    @property
    def reasons(self) -> Mapping[str, str]:
        """Last part of a gene's name -> what in the search file makes it vary, for people."""
        return {}

    def renamed(self, parent: Callable[[str | None], str | None]) -> Self:
        """Return the section in which parents have other names, which `parent` returns."""
        return self.model_copy(update={"host": parent(self.host)})

    def check_sources(self, config: Any) -> Iterator[str]:
        """Yield a sentence if a search file has nothing to merge."""
        yield from ()

    def check_knobs(self, config: Any) -> Iterator[str]:
        """Yield a sentence if a search file has nothing to search."""
        yield from ()

    def make(self, config: Any, checkpoints: Mapping[str, Any], genes: Sequence[str]) -> Any:
        """Return the space for opened parents; ConfigError: the settings do not fit them.

        Args:
            config: the search file.
            checkpoints: every parent and the base.
            genes: names of the genes of a resumed run, which keeps them; empty for a new one.
        """
        raise NotImplementedError


SpaceConfig: TypeAlias = Annotated[
    SpaceKind, OneOf("evomerge.space.kinds:AnySpace"), Field(validate_default=True)
]
