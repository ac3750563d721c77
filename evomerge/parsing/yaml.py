"""Reading YAML into plain values: text, numbers, flags, null, lists and mappings.

Some valid YAML is refused: duplicate keys and `<<`; binary data, sets and all other tags; and
aliases that expand a small text into a huge one. Dates are text. Values are never shared: an alias
becomes a copy, so that changing one place changes no other.
"""

import json
import re
from typing import Any

import yaml

from evomerge.errors import InputError, one_line
from evomerge.parsing.values import replaced, shown

ALIASED = 100_000
"""Largest number of characters that all aliases of one text together may expand to."""

_TAG = "tag:yaml.org,2002:"
_TAGS = {None, *(_TAG + name for name in ("str", "int", "float", "bool", "null", "map", "seq"))}


def yaml_value(text: str, what: str, error: type[InputError]) -> Any:
    """Return the value of a text with one YAML document; None if the document is empty.

    Raises:
        InputError: the text is not YAML, or has something that this module refuses (see above).
    """
    try:
        value = replaced(_Loader(text).get_single_data(), lambda item: item)
        json.dumps(value, ensure_ascii=False).encode()  # half of a \u pair cannot be written
        return value
    except RecursionError:
        why = " has lists or mappings that are nested too deep"
    # Others than YAMLError: an escape out of range, or a value that is not of the type of its tag
    except (yaml.YAMLError, ValueError, LookupError, OverflowError) as problem:
        mark = getattr(problem, "problem_mark", None)
        line = f" in line {mark.line + 1}" if mark else ""
        why = f" is not valid YAML{line}: {one_line(getattr(problem, 'problem', problem))}"
        if "single document" in (getattr(problem, "context", None) or ""):
            why = " has several documents (`---`); put each into a file of its own"
    raise error(f"{what}{why}.")


def yaml_mapping(text: str, what: str, kind: str, error: type[InputError]) -> dict[str, Any]:
    """Return the mapping in a YAML text; InputError as for `yaml_value`, or it is no mapping."""
    data = yaml_value(text, what, error)
    if not isinstance(data, dict):
        raise error(f"{what} is not {kind}: it must be a YAML mapping of keys.")
    return data


def yaml_text(data: Any, *, flow: bool | None = False) -> str:
    """Return the YAML text of plain values, from which `yaml_value` reads the same values.

    `flow`: whether lists and mappings are in brackets; None: those that hold no others.
    """
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, default_flow_style=flow, width=110))


class _Loader(yaml.SafeLoader):
    """Makes values; of a node it notes how long it is with its aliases written out."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.sizes, self.aliased = dict[yaml.Node, int](), 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        before, is_alias = self.aliased, self.check_event(yaml.AliasEvent)
        node = super().compose_node(parent, index)
        if node is not None and is_alias:  # what is in itself has no size yet
            self.aliased += self.sizes.get(node, ALIASED + 1)
            if self.aliased > ALIASED:
                why = f"aliases expand to more than {ALIASED} characters; write the values out"
                raise yaml.MarkedYAMLError(problem=why, problem_mark=node.start_mark)
        elif node is not None:
            length = node.end_mark.index - node.start_mark.index
            self.sizes[node] = length + self.aliased - before
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node, seen = super().compose_mapping_node(anchor), set[str]()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            is_merge = key.tag == f"{_TAG}merge"
            if is_merge or key.value in seen:
                why = "is not supported; write the keys out" if is_merge else "is given twice"
                why = f"the key {shown(key.value)} {why}"
                raise yaml.MarkedYAMLError(problem=why, problem_mark=key.start_mark)
            seen.add(key.value)
        return node


class _Dumper(yaml.SafeDumper):
    """Writes values."""


_makers = yaml.SafeLoader.yaml_constructors.items()
_Loader.yaml_constructors = {tag: make for tag, make in _makers if tag in _TAGS}
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != f"{_TAG}timestamp"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind in (_Loader, _Dumper):
    # PyYAML reads YAML 1.1, where 1e-05 is text. In YAML 1.2 and in JSON it is a number.
    _kind.add_implicit_resolver(
        f"{_TAG}float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
