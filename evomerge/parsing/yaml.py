"""Reading YAML into plain values: text, numbers, flags, null, lists and mappings.

Some valid YAML is refused, with the line in the message: duplicate keys; timestamps, binary data,
sets and all other tags; deep nesting; and aliases that expand a small text into a huge one. Values
are never shared: an alias becomes a copy, so that changing one place changes no other.
"""

from __future__ import annotations

import re
from typing import Any

import yaml

from evomerge.errors import InputError, one_line
from evomerge.parsing.texts import DEEPEST
from evomerge.parsing.values import shown

ALIASED = 100_000
"""Largest number of characters that all aliases of one text together may expand to."""

LONGEST_NUMBER = 400
"""Largest number of characters of a number; the largest float has 309 digits."""

_HALF = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_MERGE = f"{_TAG}merge"
_SCALARS = {
    f"{_TAG}str": "text",
    f"{_TAG}int": "a whole number",
    f"{_TAG}float": "a number",
    f"{_TAG}bool": "true or false",
    f"{_TAG}null": "null",
}


class RefusedError(Exception):
    """Valid YAML that is refused; `line` counts from 1."""

    def __init__(self, sentence: str, mark: yaml.Mark) -> None:
        super().__init__(sentence)
        self.line = mark.line + 1


def yaml_value(text: str, what: str, error: type[InputError]) -> Any:
    """Return the value of a text with one YAML document; None if the document is empty.

    Raises:
        InputError: the text is not YAML, or has something that this module refuses (see above).
    """
    try:
        return _Loader(text).value()
    except RefusedError as found:
        raise error(f"{what}, line {found.line}: {found}.") from None
    except yaml.MarkedYAMLError as found:
        if "single document" in (found.context or ""):
            raise error(
                f"{what} has several documents (`---`); put each into a file of its own."
            ) from None
        mark = found.problem_mark
        line = f" in line {mark.line + 1}" if mark else ""
        raise error(f"{what} is not valid YAML{line}: {one_line(found.problem)}.") from None
    except yaml.YAMLError as found:
        raise error(f"{what} is not valid YAML: {one_line(found)}.") from None
    except (ValueError, OverflowError) as found:  # an escape or a version number out of range
        raise error(f"{what} is not valid YAML: {one_line(found)}.") from None


def yaml_mapping(text: str, what: str, kind: str, error: type[InputError]) -> dict[str, Any]:
    """Return the mapping in a YAML text.

    Raises:
        InputError: as for `yaml_value`, or the value is not a mapping.
    """
    data = yaml_value(text, what, error)
    if not isinstance(data, dict):
        raise error(f"{what} is not {kind}: it must be a YAML mapping of keys.")
    return data


def yaml_text(data: Any, *, width: int, flow: bool | None = False) -> str:
    """Return the YAML text of plain values, from which `yaml_value` reads the same values.

    Args:
        flow: whether lists and mappings are in brackets; None: those that hold no others.
    """
    return str(
        yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=width)
    )


def check_aliases(root: yaml.Node) -> None:
    """Check how much the aliases in a tree of YAML nodes expand to, and how deep it is then.

    An alias is the node that it refers to, so such a node is visited again for each alias.

    Raises:
        RefusedError: they expand to more than `ALIASED` characters, or lists and mappings are
            nested more than `DEEPEST` deep.
    """
    left = root.end_mark.index - root.start_mark.index + ALIASED

    def visit(node: yaml.Node, depth: int, place: yaml.Mark) -> None:
        nonlocal left
        if node.start_mark.index > place.index:  # else it was reached by an alias
            place = node.start_mark
        if depth > DEEPEST:
            raise RefusedError(f"lists or mappings are nested more than {DEEPEST} deep", place)
        is_scalar = isinstance(node, yaml.ScalarNode)
        left -= 1 + (len(node.value) if is_scalar else 0)
        if left < 0:
            raise RefusedError(
                f"aliases expand to more than {ALIASED} characters; write the values out", place
            )
        for item in () if is_scalar else node.value:
            for part in item if isinstance(node, yaml.MappingNode) else (item,):
                visit(part, depth + 1, place)

    visit(root, 1, root.start_mark)


class _Loader(yaml.SafeLoader):
    """Loader that checks the tree of YAML nodes while it is built, before it makes values."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def value(self) -> Any:
        """Return the plain value of the only document."""
        node = self.get_single_node()
        if node is None:
            return None
        check_aliases(node)
        return self._plain(node)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Build and check the next node; PyYAML calls this for every node."""
        if self.check_event(yaml.AliasEvent):
            return super().compose_node(parent, index)
        self._depth += 1
        if self._depth > DEEPEST:  # before the libraries' own code would nest too deep
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise RefusedError(f"lists or mappings are nested more than {DEEPEST} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is not None:
            self._check(node, key=isinstance(parent, yaml.MappingNode) and index is None)
        return node

    def _check(self, node: yaml.Node, *, key: bool) -> None:
        if isinstance(node, yaml.ScalarNode):
            self._check_scalar(node, key=key)
            return
        if key:
            raise RefusedError("a key must be a word or a number", node.start_mark)
        kind = node.tag.removeprefix(_TAG)
        if kind != ("map" if isinstance(node, yaml.MappingNode) else "seq"):
            raise RefusedError(
                f"the YAML type {shown(kind)} is not supported; allowed are lists, mappings, text, "
                "numbers, true, false and null",
                node.start_mark,
            )
        if isinstance(node, yaml.MappingNode):
            seen: set[str] = set()
            for name, _ in node.value:
                if name.value in seen and name.tag != _MERGE:
                    raise RefusedError(
                        f"the key {shown(name.value)} is given twice", name.start_mark
                    )
                seen.add(name.value)

    def _check_scalar(self, node: yaml.ScalarNode, *, key: bool) -> None:
        if node.tag not in _SCALARS and not (key and node.tag == _MERGE):
            raise RefusedError(
                f"{shown(node.value)} has the YAML type {shown(node.tag.removeprefix(_TAG))}, "
                "which is not supported; put quotes around it if it is text",
                node.start_mark,
            )
        if not node.value.isascii() and _HALF.search(node.value):
            raise RefusedError("text has an unpaired surrogate", node.start_mark)
        if _SCALARS.get(node.tag, "").endswith("number") and len(node.value) > LONGEST_NUMBER:
            raise RefusedError(
                f"a number has more than {LONGEST_NUMBER} characters", node.start_mark
            )

    def _plain(self, node: yaml.Node) -> Any:
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node)
        if isinstance(node, yaml.SequenceNode):
            return [self._plain(item) for item in node.value]
        try:
            return self.construct_object(node)
        except (ValueError, LookupError, OverflowError):
            # A tag can name another type than the value has (`!!int x`).
            raise RefusedError(
                f"{shown(node.value)} is not {_SCALARS[node.tag]}", node.start_mark
            ) from None

    def _mapping(self, node: yaml.MappingNode) -> dict[Any, Any]:
        """Return a mapping with the keys of `<<`.

        The mapping's own keys override those of `<<`, and earlier mappings of `<<` override later
        ones. PyYAML's own code takes the wrong value if a key is merged twice.
        """
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        for key, item in node.value:
            if key.tag != _MERGE:
                own[self._plain(key)] = self._plain(item)
                continue
            for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                if not isinstance(source, yaml.MappingNode):
                    raise RefusedError("`<<` needs a mapping or a list of them", key.start_mark)
                for name, value in self._mapping(source).items():
                    merged.setdefault(name, value)
        return {**merged, **own}


class _Dumper(yaml.SafeDumper):
    """Writes what `_Loader` reads."""


for _kind in (_Loader, _Dumper):
    # PyYAML reads YAML 1.1, where 1e-05 is text. In YAML 1.2 and in JSON it is a number.
    _kind.add_implicit_resolver(
        f"{_TAG}float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
