"""Jinja templates of strangers, in a sandbox with limits on what they make.

In Jinja's sandbox a template cannot reach other Python objects, so it runs no code. It may still
repeat, pad, join and loop until the memory is full. So here each operation, filter and method that
can make something larger than its arguments is refused before it does, and a rendering may make
values of so many bytes only. A step of a loop counts as bytes, too, so no loop takes hours.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache, wraps
from types import BuiltinMethodType
from typing import Any

from jinja2 import Environment, Template, nodes, pass_eval_context
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedEnvironment
from jinja2.visitor import NodeTransformer

from evomerge.compat.transformers import compiling_chat_templates_by
from evomerge.trust import template_sizes as sizes

MOST_CHARACTERS = 10_000_000
"""Length of a rendered text."""

_MOST_SOURCE = 200_000  # characters of a template
_STEP = 128  # bytes that one part of the body of a loop or macro counts

_FROM_ROOTS = {"builtins", "jinja2", "markupsafe", "datetime", "decimal", "collections"}
_FROM_ROOTS |= {"transformers", "evomerge"}
"""Packages of the objects whose methods may be called; images and arrays can write files."""


class TemplateLimitError(Exception):
    """A template makes too much."""


class LimitedTemplate(Template):
    """A template whose rendering has limits."""

    def render(self, *args: Any, **kwargs: Any) -> str:
        """Return the rendered text; TemplateLimitError: it makes too much."""
        self.environment.spent = 0  # type: ignore[attr-defined]
        return super().render(*args, **kwargs)


class LimitedEnvironment(SandboxedEnvironment):
    """An environment in whose templates everything that makes values has limits.

    A subclass calls `limit` once its filters are complete.
    """

    template_class = LimitedTemplate
    intercepted_binops = frozenset({"+", "*", "**", "%"})
    spent = 0

    def limit(self) -> None:
        """Put the limits on filters, texts that are printed, and functions."""
        self.filters = {name: self._limited(name, own) for name, own in self.filters.items()}
        self.filters |= {_MADE: self.made, _COMPARED: self._compared}
        self.globals = {name: own for name, own in self.globals.items() if name != "lipsum"}
        self.finalize = self._printed
        self.optimized = False  # what is computed while a template is compiled stays in memory

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > _MOST_SOURCE:
            raise TemplateLimitError(f"it has more than {_MOST_SOURCE:,} characters")
        return _Counted(self).visit(super()._parse(source, name, filename))  # type: ignore[no-any-return]

    def concat(self, pieces: Iterable[str]) -> str:
        """Return the pieces of a text as one."""
        texts, count = [], 0
        for piece in pieces:
            count += len(piece)
            if count > MOST_CHARACTERS:
                raise TemplateLimitError(f"it writes more than {MOST_CHARACTERS:,} characters")
            texts.append(piece)
        return str(self.made("".join(texts)))

    def step(self, size: int) -> None:
        """Count a step of a loop, or a call of a macro."""
        self._spend(size)

    def made(self, value: Any) -> Any:
        """Count a value that was made, and return it."""
        size = sizes.bytes_of(value)
        if isinstance(value, (list, tuple, set, frozenset)):
            size += sum(map(sys.getsizeof, value))
        self._spend(size)
        return value

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """Return the result of an operation."""
        self._check(sizes.OPERATIONS[operator](left, right))
        result = super().call_binop(context, operator, left, right)
        self._spend(sizes.bytes_of(result))
        return result

    def call(__self, __context: Any, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        """Return what a function or method returns."""
        method = getattr(__obj, "__wrapped__", __obj)  # `str.format` is wrapped by the sandbox
        owner = getattr(method, "__self__", None)
        if owner is not None and type(owner).__module__.partition(".")[0] not in _FROM_ROOTS:
            raise TemplateLimitError(f"it calls a method of an object of {type(owner)!r}")
        name = getattr(method, "__name__", "")
        if not isinstance(method, BuiltinMethodType) and name != "strftime_now":
            return super().call(__context, __obj, *args, **kwargs)
        if name == "join" and args:
            args = (_listed(args[0]), *args[1:])
        __self._check(sizes.size_after(name, owner, args, kwargs))
        before = sizes.bytes_of(owner)
        result = super().call(__context, __obj, *args, **kwargs)
        __self._spend(max(0, sizes.bytes_of(owner) - before))
        return __self.made(result)

    def _limited(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a filter with limits; its first argument may be the context, which Jinja adds."""
        has_context = getattr(function, "jinja_pass_arg", None) is not None

        @wraps(function)
        def limited(*args: Any, **kwargs: Any) -> Any:
            first, (value, *others) = args[:has_context], args[has_context:]
            if name == "join":
                value = _listed(value)
            self._check(sizes.size_after(name, value, others, kwargs))
            return self.made(function(*first, value, *others, **kwargs))

        return limited

    @pass_eval_context  # so that nothing is printed while a template is compiled
    def _printed(self, _: Any, value: Any) -> Any:
        return self._compared(value)

    def _compared(self, value: Any) -> Any:
        if isinstance(value, sizes.CONTAINERS):  # lists in lists have few bytes and many elements
            self._check(sizes.size_as_text(value))
        return value

    def _check(self, size: float) -> None:
        if self.spent + size > sizes.MOST_BYTES:
            raise TemplateLimitError(
                f"it makes more than {sizes.MOST_BYTES >> 20} MB of texts and lists"
            )

    def _spend(self, size: int) -> None:
        self._check(size)
        self.spent += size


def _listed(values: Any) -> Any:
    return values if isinstance(values, (str, list, tuple)) else list(values)


class _LimitedChat(LimitedEnvironment, ImmutableSandboxedEnvironment):
    """What transformers renders chat templates in, with limits."""


@contextmanager
def limited_chat_templates() -> Iterator[None]:
    """Within, transformers renders chat templates with limits."""
    with compiling_chat_templates_by(_compiled):
        yield


@lru_cache(maxsize=16)
def _compiled(stock: Environment, template: str) -> Template:
    """Return a template that renders as in transformers' own environment, with limits."""
    copy = stock.overlay()
    copy.__class__ = _LimitedChat
    assert isinstance(copy, _LimitedChat)
    copy.limit()
    return copy.from_string(template)


_MADE, _COMPARED = "made", "compared"  # filters of slices, and of what is compared


class _Counted(NodeTransformer):
    """Lets steps of loops and calls of macros count; slices, `~` and comparisons use filters."""

    def __init__(self, environment: LimitedEnvironment) -> None:
        self._environment = environment

    def visit_For(self, node: Any) -> Any:  # noqa: N802
        """Let each step count by the size of the body."""
        count = sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        step = nodes.EnvironmentAttribute("step")
        call = nodes.Call(step, [nodes.Const(_STEP * count)], [], None, None)
        node.body.insert(0, self._at(nodes.ExprStmt(call), node))
        return node

    visit_Macro = visit_CallBlock = visit_Block = visit_For  # noqa: N815

    def visit_Concat(self, node: Any) -> Any:  # noqa: N802
        """`a ~ b` is `[a, b] | join`."""
        self.generic_visit(node)
        values = nodes.List(node.nodes)
        return self._at(nodes.Filter(values, "join", [], [], None, None), node)

    def visit_Getitem(self, node: Any) -> Any:  # noqa: N802
        """Count a slice."""
        self.generic_visit(node)
        if not isinstance(node.arg, nodes.Slice):
            return node
        return self._at(nodes.Filter(node, _MADE, [], [], None, None), node)

    def visit_Compare(self, node: Any) -> Any:  # noqa: N802
        """Look at both sides."""
        self.generic_visit(node)
        for part in (node, *node.ops):
            look = nodes.Filter(part.expr, _COMPARED, [], [], None, None)
            part.expr = self._at(look, node)
        return node

    def _at(self, new: nodes.Node, old: nodes.Node) -> nodes.Node:
        return new.set_lineno(old.lineno).set_environment(self._environment)
