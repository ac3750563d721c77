"""The Jinja templates of tasks, rendered in Jinja's sandbox; what lm-eval renders again is kept.

In the sandbox a template cannot reach other Python objects, so a task of a stranger cannot run code
by its template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from types import SimpleNamespace
from typing import Any, TypeAlias

from jinja2 import Environment
from jinja2.sandbox import SandboxedEnvironment

from evomerge.compat import need
from evomerge.errors import ConfigError, one_line
from evomerge.parsing.values import shown

Rendered: TypeAlias = dict[tuple[str, int], tuple[Any, Any]]
"""Name of a method and id of a document -> the document, and what the method returned for it."""


class TaskTemplates(SandboxedEnvironment):
    """Renders as another environment does, in the sandbox, and keeps compiled templates."""

    def __init__(self, plain: Environment) -> None:
        super().__init__(
            loader=plain.loader,
            undefined=plain.undefined,
            keep_trailing_newline=plain.keep_trailing_newline,
        )
        self.filters.update(plain.filters)
        self._compiled = lru_cache(maxsize=1000)(super().from_string)

    def from_string(self, source: Any, *_: Any, **__: Any) -> Any:
        """Return what renders a text as a template; ConfigError: it is none, or fails."""
        with _explained(str(source)):
            template = self._compiled(source)

        def render(*values: Any, **named: Any) -> str:
            with _explained(str(source)):
                return template.render(*values, **named)

        return SimpleNamespace(render=render)


@contextmanager
def _explained(text: str) -> Iterator[None]:
    """Raise a sentence with the text of a template for what it raises."""
    try:
        yield
    except Exception as error:  # a template may call anything of a document, or divide by zero
        reason = f"{type(error).__name__}: {one_line(error)}".rstrip(".")
        raise ConfigError(
            f"The template {shown(text)} of a task cannot be used ({reason}); change it in the "
            "task's YAML."
        ) from error


_made = lru_cache(maxsize=1)(TaskTemplates)


@contextmanager
def templates_in_sandbox() -> Iterator[None]:
    """While the context is open, lm-eval renders the templates of tasks in a sandbox.

    It also keeps them compiled; lm-eval compiles a template at each use.
    """
    from lm_eval import utils

    before = need("lm_eval", utils, "env")
    utils.env = before if isinstance(before, TaskTemplates) else _made(before)
    try:
        yield
    finally:
        utils.env = before


@contextmanager
def rendered_once(task: Any, known: Rendered) -> Iterator[None]:
    """While the context is open, a task renders the target and choices of a document once.

    lm-eval renders both whenever it computes a document's metrics: for every candidate. What was
    rendered before is in `known`.
    """

    def once(name: str, render: Callable[..., Any]) -> Callable[..., Any]:
        def recall(document: Any, *override: Any, **options: Any) -> Any:
            if override or options:
                return render(document, *override, **options)
            key = (name, id(document))  # an id is used again when its object is gone
            if key not in known or known[key][0] is not document:
                known[key] = (document, render(document))
            return known[key][1]

        return recall

    own = {k: getattr(task, k) for k in ("doc_to_target", "doc_to_choice") if hasattr(task, k)}
    vars(task).update({name: once(name, render) for name, render in own.items()})
    try:
        yield
    finally:
        for name in own:
            delattr(task, name)
