"""Reading YAML into plain values: text, numbers, flags, null, lists and mappings.

Some valid YAML is refused, with the line in the message: duplicate keys; timestamps, binary data,
sets and all other tags; deep nesting; and aliases that expand a small text into a huge one. Values
are never shared: an alias becomes a copy, so that changing one place changes no other.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from yaml.constructor import ConstructorError

from evomerge.errors import InputError, one_line
from evomerge.parsing.texts import DEEPEST
from evomerge.parsing.values import shown

ALIASED = 100_000
"""Largest number of characters that all aliases of one text together may expand to."""

_LONGEST_NUMBER = 400  # characters; the largest float has 309 digits
_HALF = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_SCALARS = {
    f"{_TAG}str": "text",
    f"{_TAG}int": "a whole number",
    f"{_TAG}float": "a number",
    f"{_TAG}bool": "true or false",
    f"{_TAG}null": "null",
}
_TOO_DEEP = f"lists or mappings are nested more than {DEEPEST} deep"


def yaml_value(text: str, what: str, error: type[InputError]) -> Any:
    """Return the value of a text with one YAML document; None if the document is empty.

    Raises:
        InputError: the text is not YAML, or has something that this module refuses (see above).
    """
    try:
        root = _Loader(text).get_single_node()
        return None if root is None else _Reader(root).value(root)
    except RecursionError:
        why = f": {_TOO_DEEP}"
    # ValueError, OverflowError: an escape or a version number out of range
    except (yaml.YAMLError, ValueError, OverflowError) as found:
        mark = getattr(found, "problem_mark", None)
        line = f" line {mark.line + 1}" if mark else ""
        problem = one_line(getattr(found, "problem", found))
        why = f" is not valid YAML{' in' if line else ''}{line}: {problem}"
        if isinstance(found, ConstructorError):  # raised here, too
            why = f",{line}: {problem}"
        elif "single document" in (getattr(found, "context", None) or ""):
            why = " has several documents (`---`); put each into a file of its own"
    raise error(f"{what}{why}.")


def yaml_mapping(text: str, what: str, kind: str, error: type[InputError]) -> dict[str, Any]:
    """Return the mapping in a YAML text; InputError as for `yaml_value`, or it is no mapping."""
    data = yaml_value(text, what, error)
    if not isinstance(data, dict):
        raise error(f"{what} is not {kind}: it must be a YAML mapping of keys.")
    return data


def yaml_text(data: Any, *, width: int, flow: bool | None = False) -> str:
    """Return the YAML text of plain values, from which `yaml_value` reads the same values.

    `flow`: whether lists and mappings are in brackets; None: those that hold no others.
    """
    form: dict[str, Any] = {"sort_keys": False, "default_flow_style": flow, "width": width}
    return str(yaml.dump(data, Dumper=_Dumper, **form))


class _Loader(yaml.SafeLoader):
    """Makes nodes."""


def _refused(sentence: str, mark: yaml.Mark) -> ConstructorError:
    return ConstructorError(None, None, sentence, mark)


class _Reader:
    """Makes plain values of a tree of nodes. The node of an alias is read again for each alias."""

    def __init__(self, root: yaml.Node) -> None:
        self.scalars = yaml.constructor.SafeConstructor()
        self.left = root.end_mark.index - root.start_mark.index + ALIASED
        self.place = root.start_mark  # of the last node that was not reached by an alias

    def value(self, node: yaml.Node, depth: int = 1) -> Any:
        """Return the value of a node; `depth` counts the lists and mappings around it from 1."""
        if node.start_mark.index > self.place.index:
            self.place = node.start_mark
        self.left -= 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.left < 0:
            why = f"aliases expand to more than {ALIASED} characters; write the values out"
            raise _refused(why, self.place)
        if depth > DEEPEST:
            raise _refused(_TOO_DEEP, self.place)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, depth + 1) for item in node.value]
        why = f"the YAML type {shown(kind)} is not supported; allowed are lists, mappings, text, "
        raise _refused(why + "numbers, true, false and null", node.start_mark)

    def scalar(self, node: yaml.ScalarNode) -> Any:
        """Return a text, number, flag or null."""
        kind = _SCALARS.get(node.tag)
        if kind is None:
            why = f"{shown(node.value)} has the YAML type {shown(node.tag.removeprefix(_TAG))}, "
            why += "which is not supported; put quotes around it if it is text"
        elif not node.value.isascii() and _HALF.search(node.value):
            why = "text has an unpaired surrogate"
        elif kind.endswith("number") and len(node.value) > _LONGEST_NUMBER:
            why = f"a number has more than {_LONGEST_NUMBER} characters"
        else:
            try:
                return self.scalars.construct_object(node)
            except (ValueError, LookupError, OverflowError):  # a tag can name another type
                why = f"{shown(node.value)} is not {kind}"
        raise _refused(why, node.start_mark)

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        """Return a mapping with the keys of `<<`, which its own keys override.

        Of several mappings of `<<` the earlier ones count; PyYAML takes the wrong value.
        """
        merged: dict[Any, Any] = {}
        own: dict[Any, Any] = {}
        seen: set[str] = set()
        for key, item in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _refused("a key must be a word or a number", key.start_mark)
            if key.tag == f"{_TAG}merge":
                for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    if not isinstance(source, yaml.MappingNode):
                        raise _refused("`<<` needs a mapping or a list of them", key.start_mark)
                    merged |= self.value(source, depth + 1) | merged
                continue
            if key.value in seen:
                raise _refused(f"the key {shown(key.value)} is given twice", key.start_mark)
            seen.add(key.value)
            own[self.value(key, depth + 1)] = self.value(item, depth + 1)
        return merged | own


class _Dumper(yaml.SafeDumper):
    """Writes values."""


for _kind in (_Loader, _Dumper):
    # PyYAML reads YAML 1.1, where 1e-05 is text. In YAML 1.2 and in JSON it is a number.
    _kind.add_implicit_resolver(
        f"{_TAG}float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
