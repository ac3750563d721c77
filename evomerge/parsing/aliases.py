"""Aliases in YAML: a few of them can expand a small text into a huge value."""

from __future__ import annotations

from dataclasses import dataclass

import yaml

from evomerge.parsing.texts import DEEPEST

ALIASED = 100_000
"""Largest number of characters that all aliases of one text together may expand to."""


class RefusedError(Exception):
    """Valid YAML that is refused; `line` counts from 1."""

    def __init__(self, sentence: str, mark: yaml.Mark) -> None:
        super().__init__(sentence)
        self.line = mark.line + 1


def check_aliases(root: yaml.Node) -> None:
    """Check how much the aliases in a YAML document expand to, and how deep it is then.

    Raises:
        RefusedError: they expand to more than `ALIASED` characters, or lists and mappings are
            nested more than `DEEPEST` deep, or an alias is inside of what it refers to.
    """
    _Expansion().add(root, 1, root.start_mark)


@dataclass(frozen=True)
class _Extent:
    """Size of a node after all aliases in it are expanded."""

    size: int
    height: int


class _Expansion:
    """Measures nodes, each once."""

    def __init__(self) -> None:
        self._aliased = 0
        self._extents: dict[int, _Extent] = {}  # of the complete nodes, by id(node)
        self._open: set[int] = set()  # ids of the nodes around the next one

    def add(self, node: yaml.Node, depth: int, mark: yaml.Mark) -> _Extent:
        """Return the extent of a node; of one that was added before, this is an alias."""
        if id(node) in self._open:
            raise RefusedError("an alias is inside of the value that it refers to", mark)
        extent = self._extents.get(id(node))
        if extent is not None:
            self._aliased += extent.size
        if depth - 1 + (extent.height if extent else 1) > DEEPEST:
            raise RefusedError(f"lists or mappings are nested more than {DEEPEST} deep", mark)
        if self._aliased > ALIASED:
            raise RefusedError(
                f"aliases expand to more than {ALIASED} characters; write the values out", mark
            )
        if extent is None:
            self._open.add(id(node))
            extent = self._extents[id(node)] = self._measured(node, depth)
            self._open.remove(id(node))
        return extent

    def _measured(self, node: yaml.Node, depth: int) -> _Extent:
        if isinstance(node, yaml.ScalarNode):
            return _Extent(1 + len(node.value), 1)
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(it,) for it in node.value]
        inner = [
            self.add(item, depth + 1, (node if len(pair) == 1 else pair[0]).start_mark)
            for pair in pairs
            for item in pair
        ]
        return _Extent(
            1 + sum(item.size for item in inner), 1 + max((i.height for i in inner), default=0)
        )
