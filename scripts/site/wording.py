"""The wording of a message that the source makes: fixed words, and names for what varies."""

from __future__ import annotations

import ast
import html
import re
from itertools import product

_METHODS_OF_A_VALUE = ("get", "items", "partition", "removeprefix", "resolve", "rstrip", "upper")

_SHOWS = ("did_you_mean", "one_line", "shown", "size_text")
"""Functions that show a value, whose own return statements say nothing to a reader."""

_ALTERNATIVES = 6
"""Largest number of sentences that are told apart for one message."""

_PLAIN = {"strerror": "reason", "__name__": "type", "__version__": "version"}
_VAGUE = ("self", "info", "item", "checkpoint", "plan", "source", "opened")


class Wording:
    """The texts that expressions of one module can be.

    A text is HTML, with `<var>` around what differs from one time to another.

    Args:
        tree: the module.
    """

    def __init__(self, tree: ast.Module) -> None:
        functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
        self.functions = {node.name: node for node in functions}
        self._constants = {
            name_of(node.targets[0]): node.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant | ast.JoinedStr)
        }

    def texts(self, node: ast.expr) -> list[str]:
        """Return what an expression can be."""
        match node:
            case ast.Constant():
                return [html.escape(str(node.value), quote=False)]
            case ast.JoinedStr():
                return _joined([self.texts(part) for part in node.values])
            case ast.BinOp(op=ast.Add()):
                return _joined([self.texts(node.left), self.texts(node.right)])
            case ast.BoolOp():
                texts = [part for part in node.values if isinstance(part, ast.JoinedStr)]
                return [text for part in texts or node.values[:1] for text in self.texts(part)]
            case ast.IfExp():
                return [*self.texts(node.body), *self.texts(node.orelse)]
            case ast.FormattedValue():
                return self.texts(node.value)
            case ast.Name() if node.id in self._constants:
                return self.texts(self._constants[node.id])
            case ast.Call() if name_of(node.func) == "did_you_mean":
                return [""]
            case ast.Call() if returned := self._returned(name_of(node.func)):
                return returned
        return [f"<var>{html.escape(placeholder(node), quote=False)}</var>"]

    def _returned(self, name: str) -> list[str]:
        """Return the texts that a function of this module returns, if they are sentences."""
        function = self.functions.get(name)
        if function is None or name in _SHOWS:
            return []
        values = [item.value for item in ast.walk(function) if isinstance(item, ast.Return)]
        if not all(isinstance(item, ast.JoinedStr | ast.Constant | ast.IfExp) for item in values):
            return []
        return [text for value in values if value is not None for text in self.texts(value)]


def placeholder(node: ast.expr) -> str:
    """Return a word or two for a value that a message shows."""
    match node:
        case ast.Call():
            return _of_call(node)
        case ast.Attribute(attr="name" | "reference"):
            owner = placeholder(node.value)
            return "name" if owner in _VAGUE else owner
        case ast.Attribute():
            return _PLAIN.get(node.attr, _words(node.attr))
        case ast.Subscript(slice=ast.Constant(value=str(key))):
            return _words(key)
        case ast.BinOp(op=ast.Sub(), right=ast.Constant(value=1)):
            return "largest number"
        case ast.BinOp():
            return placeholder(node.left)
        case ast.GeneratorExp() | ast.ListComp():
            return placeholder(node.generators[0].iter)
        case ast.Subscript() | ast.Starred() | ast.FormattedValue():
            return placeholder(node.value)
        case ast.BoolOp():
            return placeholder(node.values[0])
    return _words(ast.unparse(node).strip("'\""))


def name_of(node: ast.expr) -> str:
    """Return the last part of a dotted name, or an empty text."""
    return getattr(node, "attr", None) or getattr(node, "id", None) or ""


def _of_call(node: ast.Call) -> str:
    name, arguments = name_of(node.func), [*node.args, *(item.value for item in node.keywords)]
    if name == "join" and arguments:
        return placeholder(arguments[0])
    if name == "len":
        return f"number of {placeholder(arguments[0])}"
    if isinstance(node.func, ast.Attribute) and name in _METHODS_OF_A_VALUE:
        return placeholder(node.func.value)
    return placeholder(arguments[0]) if arguments else _words(name)


def _words(name: str) -> str:
    return name.strip("_").replace("_", " ").lower()


def _joined(parts: list[list[str]]) -> list[str]:
    """Return the texts that are made of one alternative of each part."""
    whole = [part if _are_sentences(part) else [_either(part)] for part in parts]
    choices = ["".join(choice) for choice in product(*whole)]
    return choices if len(choices) <= _ALTERNATIVES else ["".join(map(_either, parts))]


def _are_sentences(alternatives: list[str]) -> bool:
    return len(alternatives) > 1 and all(len(text.split()) > 3 for text in alternatives)


def _either(alternatives: list[str]) -> str:
    """Return alternatives as one text."""
    if len(alternatives) == 1:
        return alternatives[0]
    inner = dict.fromkeys(re.sub(r"</?var>", "", text) for text in alternatives if text)
    return f"<var>{' | '.join(inner)}</var>"
