"""The section `space` of a search file: what is asked of every kind of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Self, TypeAlias

from evomerge.config.fields import Kind, OfKind
from evomerge.errors import listed
from evomerge.parsing.values import shown
from evomerge.registry import Registry

ABOUT = {
    "parameters": "the knobs of a merge, by layer group and component or tensor (PS)",
    "dataflow": "the path through the parents' layers, with scales (DFS)",
}
"""Kind -> one line about it."""


class SpaceKind(Kind):
    """What is searched: one way to fill the section `space`.

    Attributes:
        papers: publications of this way to search merges.
        is_path: whether candidates differ in their layers rather than in weights.
        keeps_depth: whether each layer of a candidate is at the depth that it has in its parent.
    """

    kind: str
    host: str | None = None
    """parent that gives config and tokenizer; null: the first, or in a parameter space the base"""
    papers: ClassVar[tuple[str, ...]] = ("Akiba et al. 2025, arXiv 2403.13187",)
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


SPACES: Registry[type[SpaceKind]] = Registry(
    "space",
    "",
    {
        "parameters": "evomerge.space.parameters:ParametersConfig",
        "sakana": "evomerge.space.slots:SakanaConfig",
        "structured": "evomerge.space.slots:StructuredConfig",
        "frankenmerge": "evomerge.space.slices:FrankenmergeConfig",
        "swaps": "evomerge.space.slots:SwapsConfig",
        "dropping": "evomerge.space.slots:DroppingConfig",
    },
)
"""The kinds by `kind`, those of dataflow by `variant`; no other package adds one."""


class _OfSpace(OfKind):
    """Parses the section by its kind and, with dataflow, its variant."""

    def parse(self, data: Any, context: Any = None) -> Kind:
        """Return a section; pydantic's ValidationError: it has a mistake."""
        if not isinstance(data, Mapping):
            return super().parse(data, context)
        section = {"kind": self.default, **data}
        tag, names = "kind", tuple(ABOUT)
        if section["kind"] == "dataflow":
            section = {"variant": "sakana", **section}
            tag, names = "variant", tuple(self.kinds.builtin)[1:]
        if section[tag] not in names:
            raise self.unknown(tag, section[tag], names)
        own = self.kinds.get(section[tag]).model_fields
        every = {key for name in self.kinds.builtin for key in self.kinds.get(name).model_fields}
        if others := sorted(section.keys() & every - own.keys()):
            variant = f", `variant` {section[tag]!r}" if tag == "variant" else ""
            pronoun = "it" if len(others) == 1 else "them"
            sentence = (
                f"has {listed(f'`{key}` {shown(section[key])}' for key in others)}, without "
                f"meaning for `kind` {section['kind']!r}{variant}, whose keys are "
                f"{', '.join(sorted(own))}; remove {pronoun}"
            )
            raise self.wrong("value_error", (), data, {"error": ValueError(sentence)})
        return self.kinds.get(section[tag]).model_validate(section, context=context)


SpaceConfig: TypeAlias = Annotated[SpaceKind, _OfSpace(SPACES, "kind", "parameters")]
