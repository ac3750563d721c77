"""Files of users and strangers: texts, JSON and YAML that become plain values, links, pipes.

A folder from elsewhere may have a link to a private file, which would be copied into a merge or
written to. Some valid YAML is refused, with the line in the message: duplicate keys; timestamps,
binary data, sets and all other tags; deep nesting; and aliases that expand a small text into a huge
one. Values are never shared: an alias becomes a copy, so that changing one place changes no other.
"""

import json
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from yaml.constructor import SafeConstructor

from evomerge.errors import InputError, one_line
from evomerge.parsing.values import shown

DEEPEST = 64
"""Largest nesting depth of lists and mappings in a file. Real files have a depth of up to 10."""

_GIVEN = ("/dev/fd/", "/dev/stdin", "/proc/self/fd/")
"""Where a shell puts what it was told to give as a file (`<(command)`)."""

_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def read_text(file: Path, error: type[InputError], missing: str | None = None) -> str:
    """Return the text of a UTF-8 file; InputError: it is none, or cannot be read.

    `missing` is the error's sentence if the file does not exist; None for a general one.
    """
    if not str(file).startswith(_GIVEN):
        check_ordinary([file], error)
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        why = missing or f"{file} does not exist; give the path of a file that does."
    except IsADirectoryError:
        why = f"{file} is a folder; give a file in it."
    except OSError as found:
        why = f"{file} cannot be read: {found.strerror}; give a file that you may read."
    except UnicodeDecodeError as found:
        why = f"{file} cannot be read: byte {found.start} is not UTF-8 text; save it as UTF-8."
    raise error(why)


def json_value(text: str | bytes, what: str, error: type[InputError]) -> Any:
    """Return the value of a JSON text.

    InputError: it is not JSON, is nested more than `DEEPEST` deep, or has an unpaired surrogate,
    which cannot be written to a file.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text)
        # Each level has an opening bracket. Most texts have so few that their levels need no count.
        if text.count("[") + text.count("{") > DEEPEST and _is_deep(value, DEEPEST):
            raise RecursionError
        if _HALF.search(text):
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except RecursionError:
        why = f"has lists or mappings nested more than {DEEPEST} deep"
    except UnicodeEncodeError:
        why = "has an unpaired surrogate (half of a \\u pair), which is not valid text,"
    except ValueError as found:
        why = f"cannot be read as JSON ({one_line(found)})"
    raise error(f"{what} {why} and is damaged; correct it, or fetch the file again.")


def _is_deep(value: Any, left: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value
    return left == 0 or any(
        _is_deep(item, left - 1) for item in inner if isinstance(item, (dict, list))
    )


def entries(folder: Path, error: type[InputError]) -> list[Path]:
    """Return what is in a folder, in alphabetical order; InputError: it cannot be read."""
    try:
        return sorted(folder.iterdir())
    except OSError as found:
        raise error(f"{folder} cannot be read: {found.strerror}.") from None


def check_inside(
    paths: Iterable[Path], folders: Iterable[Path], whose: str, error: type[InputError]
) -> None:
    """Raise an InputError if a path is a link out of all `folders`, whose paths have no links."""
    inside = list(folders)
    for path in paths:
        real = Path(os.path.realpath(path))  # Path.resolve raises for links in a circle
        if not any(real.is_relative_to(folder) for folder in inside):
            raise error(
                f"{path} is a link to {real}, which is outside of the folder of {whose}; remove it."
            )


def check_ordinary(paths: Iterable[Path], error: type[InputError]) -> None:
    """Raise an InputError if a path is a pipe, which may have no end, a socket or a device."""
    for path in paths:
        if is_special(path):
            raise error(
                f"{path} is a pipe, a socket or a device; put an ordinary file in its place."
            )


def is_special(path: Path) -> bool:
    """Whether a path is a pipe, a socket or a device; False if nothing is there."""
    try:
        mode = os.stat(path).st_mode  # noqa: PTH116 - Path's raises for names that are too long
    except (OSError, ValueError):
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


ALIASED = 100_000
"""Largest number of characters that all aliases of one text together may expand to."""

_SURROGATE = re.compile("[\ud800-\udfff]")
_TAG = "tag:yaml.org,2002:"
_SCALARS = ("str", "int", "float", "bool", "null")
_TOO_DEEP = f"lists or mappings are nested more than {DEEPEST} deep"


def yaml_value(text: str, what: str, error: type[InputError]) -> Any:
    """Return the value of a text with one YAML document; None if the document is empty.

    Raises:
        InputError: the text is not YAML, or has something that this module refuses (see above).
    """
    try:
        root = _Loader(text).get_single_node()
        return None if root is None else _Reader(what, error, len(text) + ALIASED).value(root)
    except RecursionError:
        why = f": {_TOO_DEEP}"
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


def yaml_text(data: Any, *, flow: bool | None = False, width: float = 110) -> str:
    """Return the YAML text of plain values, from which `yaml_value` reads the same values.

    `flow`: whether lists and mappings are in brackets; None: those that hold no others. `width`:
    characters of a line, behind which a long value goes on in the next one.
    """
    options: dict[str, Any] = {"default_flow_style": flow, "width": width, "allow_unicode": True}
    return str(yaml.dump(data, Dumper=_Dumper, sort_keys=False, **options))


@dataclass
class _Reader:
    """Makes plain values of a tree of nodes. The node of an alias is read again for each alias."""

    what: str
    error: type[InputError]
    left: int  # characters
    scalars: SafeConstructor = field(default_factory=SafeConstructor)

    def value(self, node: yaml.Node, depth: int = 1) -> Any:
        """Return the value of a node; `depth` counts the lists and mappings around it from 1."""
        kind, line = node.tag.removeprefix(_TAG), node.start_mark.line
        self.left -= 1 + (len(node.value) if isinstance(node, yaml.ScalarNode) else 0)
        if self.left < 0:
            why = f"aliases expand to more than {ALIASED} characters; write the values out"
            raise self.refused(why, line)
        if depth > DEEPEST:
            raise self.refused(_TOO_DEEP, line)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, kind, line)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, depth + 1) for item in node.value]
        allowed = "allowed are lists, mappings, text, numbers, true, false and null"
        raise self.refused(f"the YAML type {shown(kind)} is not supported; {allowed}", line)

    def scalar(self, node: yaml.ScalarNode, kind: str, line: int) -> Any:
        """Return a text, number, flag or null."""
        text = node.value
        if kind not in _SCALARS:
            why = f"{shown(text)} has the YAML type {shown(kind)}, which is not supported; "
            raise self.refused(f"{why}put quotes around it if it is text", line)
        if not text.isascii() and _SURROGATE.search(text):
            raise self.refused("text has an unpaired surrogate", line)
        try:
            value = self.scalars.construct_object(node)
            repr(value)  # of an integer with 5,000 hexadecimal digits no text can be made
            return value
        except (ValueError, LookupError, OverflowError):  # `!!bool maybe`, 5,000 digits
            why = f"{shown(text)} is not a value of the YAML type {kind}"
            raise self.refused(why, line) from None

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[Any, Any]:
        """Return a mapping with the keys of `<<`, which its own keys override.

        Of several mappings of `<<` the earlier ones count; PyYAML takes the wrong value.
        """
        merged: dict[Any, Any] = {}
        values: dict[Any, Any] = {}
        seen: set[str] = set()
        for key, item in node.value:
            line = key.start_mark.line
            if not isinstance(key, yaml.ScalarNode):
                raise self.refused("a key must be a word or a number", line)
            if key.tag == f"{_TAG}merge":
                for source in item.value if isinstance(item, yaml.SequenceNode) else [item]:
                    if not isinstance(source, yaml.MappingNode):
                        raise self.refused("`<<` needs a mapping or a list of them", line)
                    merged |= self.value(source, depth + 1) | merged
                continue
            if key.value in seen:
                raise self.refused(f"the key {shown(key.value)} is given twice", line)
            seen.add(key.value)
            values[self.value(key, depth + 1)] = self.value(item, depth + 1)
        return merged | values

    def refused(self, why: str, line: int) -> InputError:
        """Return the error about what is in a line, from 0."""
        return self.error(f"{self.what}, line {line + 1}: {why}.")


class _Loader(yaml.SafeLoader):
    """Makes nodes."""


class _Dumper(yaml.SafeDumper):
    """Writes values."""


for _kind in (_Loader, _Dumper):
    # PyYAML reads YAML 1.1, where 1e-05 is text. In YAML 1.2 and in JSON it is a number.
    _kind.add_implicit_resolver(
        f"{_TAG}float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
    )
