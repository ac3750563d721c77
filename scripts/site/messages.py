"""The messages of evomerge, collected from its source: errors, failures of candidates, warnings."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import evomerge
from scripts.site.wording import Wording, name_of

PACKAGE = Path(evomerge.__file__).parent

_ERROR = re.compile(r"_?[A-Z]\w*(Error|Exit)|error")
"""Names that are called to make an error: classes, and parameters that are a class."""

_VARIABLES = {"missing": "error", "message": "warning"}
"""Variables that hold a message -> its kind."""

_WARNS = re.compile(r".+_warnings?|doubt_about_.+")
"""Names of functions that return or yield warnings."""

_SAYS_SOMETHING = re.compile(r"[a-z]{3}")
"""Found in a message that has more than the text of another one."""

_SENTENCES = ("config/messages.py",)
"""Modules whose functions return sentences that become an error elsewhere."""


@dataclass(frozen=True)
class Message:
    """One message of evomerge.

    Attributes:
        module: where it is raised, such as `config/yaml.py`.
        line: line in the module.
        kind: name of the error's class, `error` if the caller chooses the class, `Failure` for a
            candidate's failure, or `warning`.
        text: the message as HTML, with `<var>` around what differs from one time to another.
    """

    module: str
    line: int
    kind: str
    text: str

    @property
    def plain(self) -> str:
        """The text without markup."""
        return html.unescape(re.sub(r"</?var>", "", self.text))


def messages() -> list[Message]:
    """Return every message of the package, in the order of modules and lines."""
    found = [message for file in sorted(PACKAGE.rglob("*.py")) for message in _Module(file).all()]
    return list(dict.fromkeys(found))


def unread_raises() -> list[str]:
    """Return the places of `raise` statements with a call in which no message is recognised."""
    return [place for file in sorted(PACKAGE.rglob("*.py")) for place in _Module(file).unread()]


class _Module:
    """The messages of one module."""

    def __init__(self, file: Path) -> None:
        self.name = file.relative_to(PACKAGE).as_posix()
        self.tree = ast.parse(file.read_text(encoding="utf-8"))
        self.wording = Wording(self.tree)

    def all(self) -> Iterator[Message]:
        for node in ast.walk(self.tree):
            for kind, text in self._read(node):
                line: int = getattr(text, "lineno", 0) or getattr(node, "lineno", 0)
                for words in self.wording.texts(text):
                    if _SAYS_SOMETHING.search(re.sub(r"<var>.*?</var>", "", words)):
                        yield Message(self.name, line, kind, words)

    def unread(self) -> Iterator[str]:
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                if name_of(node.exc.func) == "not_written":  # its messages are those of errors.py
                    continue
                function = self.wording.functions.get(name_of(node.exc.func))
                inside = [node.exc, *(ast.walk(function) if function else ())]
                if not any(list(self._read(item)) for item in inside):
                    yield f"{self.name}:{node.lineno}: {ast.unparse(node.exc)[:60]}"

    def _read(self, node: ast.AST) -> Iterator[tuple[str, ast.expr]]:
        """Yield the kind and the expression of the message that a node makes, if it makes one."""
        if isinstance(node, ast.Call) and node.args:
            name = name_of(node.func)
            if _ERROR.fullmatch(name):
                yield name, node.args[0]
            elif name == "wrong" and len(node.args) == 3:
                yield "error", _wrong(node)
            elif name == "Failure" and len(node.args) == 2:
                yield name, node.args[1]
            elif self._is_log(node) or ast.unparse(node.func) == "notes.append":
                yield "warning", _filled(node)
        elif isinstance(node, ast.Assign) and isinstance(node.value, ast.JoinedStr):
            if kind := _VARIABLES.get(name_of(node.targets[0])):
                yield kind, node.value
        elif isinstance(node, ast.FunctionDef):
            kind = "ConfigError" if self.name in _SENTENCES else "warning"
            if kind == "ConfigError" or _WARNS.fullmatch(node.name):
                yield from ((kind, text) for text in _returned(node))

    def _is_log(self, node: ast.Call) -> bool:
        return ast.unparse(node.func) == "log.warning"


def _returned(function: ast.FunctionDef) -> Iterator[ast.expr]:
    """Yield the sentences that a function returns, alone or first in a tuple, or yields."""
    for node in ast.walk(function):
        match node:
            case ast.Return(value=ast.JoinedStr() as text):
                yield text
            case ast.Yield(value=(ast.JoinedStr() | ast.Constant()) as text):
                yield text
            case ast.Return(value=ast.Tuple(elts=[text, *_])):
                yield text


def _wrong(node: ast.Call) -> ast.expr:
    """Return the message that `Values.wrong(value, where, kind)` makes."""
    text = ast.parse("f'`{where}` is {value}; it must be {kind}.'", mode="eval").body
    assert isinstance(text, ast.JoinedStr)
    for part in text.values:
        if isinstance(part, ast.FormattedValue):
            index = ("value", "where", "kind").index(name_of(part.value))
            part.value = node.args[index] if index else part.value
    return text


def _filled(node: ast.Call) -> ast.expr:
    """Return the message of a logging call, with its arguments in the place of `%s`."""
    text, *values = node.args
    if not isinstance(text, ast.Constant) or not values:
        return text
    parts = re.split(r"%[\d.]*[a-z]", str(text.value))
    joined: list[ast.expr] = [ast.Constant(parts[0])]
    for value, part in zip(values, parts[1:], strict=True):
        joined += [ast.FormattedValue(value, -1), ast.Constant(part)]
    return ast.JoinedStr(joined)
