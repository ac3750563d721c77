"""The Jinja templates of tasks, in Jinja's sandbox and with limits.

A template renders values of a document. In the sandbox it cannot reach other Python objects, so a
task of a stranger cannot run code by its template; with the limits it cannot run for ever either.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from traceback import walk_stack
from typing import Any, TypeVar

from jinja2 import Environment, Template
from jinja2.sandbox import SandboxedEnvironment

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.limits import RefusedError, limited

SECONDS = 5.0
"""Largest time to compile or to render a template; real ones take less than a millisecond."""

LONGEST_LIST = 1_000_000
"""Largest number of characters of choices, which lm-eval parses as a Python list.

That takes 500 bytes of memory for each character.
"""

_Result = TypeVar("_Result")

_KEYS = {
    **{key: key for key in ("doc_to_text", "doc_to_target", "doc_to_choice")},
    "doc_to_prefix": "gen_prefix",
    "doc_to_decontamination_query": "doc_to_decontamination_query",
}
"""lm-eval's methods that render a template -> the key of a task's YAML that has it."""


class TaskTemplate(Template):
    """A template of `TaskTemplates`."""

    def render(self, *values: Any, **named: Any) -> str:
        """Return the text that the template makes of a document.

        Raises:
            ConfigError: it does what the sandbox does not allow, fails, or reaches a limit.
        """
        text = _limited(lambda: super(TaskTemplate, self).render(*values, **named))
        if len(text) > LONGEST_LIST and _rendered()[1] in ("doc_to_choice", "doc_to_target"):
            raise _error(f"it makes a text of {len(text)} characters")
        return text


class TaskTemplates(SandboxedEnvironment):
    """An environment that renders as another one does, in the sandbox, and keeps templates.

    Args:
        plain: the other environment.
    """

    template_class = TaskTemplate

    def __init__(self, plain: Environment) -> None:
        super().__init__(
            loader=plain.loader,
            undefined=plain.undefined,
            keep_trailing_newline=plain.keep_trailing_newline,
        )
        self.filters.update(plain.filters)
        self._kept = lru_cache(maxsize=1000)(self._make)

    def from_string(self, source: Any, *arguments: Any, **options: Any) -> Template:
        """Return the template with this text.

        Raises:
            ConfigError: it is no template, or reaches a limit: Jinja computes constants here.
        """
        if arguments or options:
            return super().from_string(source, *arguments, **options)
        return self._kept(source)

    def _make(self, source: str) -> Template:
        return _limited(lambda: super(TaskTemplates, self).from_string(source))


def _limited(work: Callable[[], _Result]) -> _Result:
    try:
        return limited(work, SECONDS)
    except RefusedError as reason:
        raise _error(reason) from reason.__cause__


def _error(reason: object) -> ConfigError:
    task, key = _rendered()
    what = f"`{key}` of task {task!r}" if key else "A template of a task"
    return ConfigError(f"{what} cannot be used ({reason}); change the template in the task's YAML.")


def _rendered() -> tuple[str, str]:
    """Return the task and the key whose template is rendered; empty if lm-eval does not render it.

    Only the callers know them: lm-eval's methods that render are named like the keys.
    """
    for frame, _ in walk_stack(None):
        task: Any = frame.f_locals.get("self")
        key = _KEYS.get(frame.f_code.co_name)
        if key is not None and hasattr(task, "get_config"):
            return str(task.get_config("task")), key
    return "", ""
