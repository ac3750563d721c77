"""The Jinja templates of tasks, in Jinja's sandbox.

A template renders values of a document. In the sandbox it cannot reach other Python objects, so a
task of a stranger cannot run code by its template.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NoReturn

from jinja2 import Environment, Template
from jinja2.exceptions import SecurityError
from jinja2.sandbox import SandboxedEnvironment

from evomerge.errors import ConfigError, one_line


class TaskTemplates(SandboxedEnvironment):
    """An environment that renders as another one does, in the sandbox, and keeps templates.

    Args:
        plain: the other environment.
    """

    def __init__(self, plain: Environment) -> None:
        super().__init__(
            loader=plain.loader,
            undefined=plain.undefined,
            keep_trailing_newline=plain.keep_trailing_newline,
        )
        self.filters.update(plain.filters)
        self._compiled = lru_cache(maxsize=1000)(super().from_string)

    def from_string(self, source: Any, *arguments: Any, **options: Any) -> Template:
        """Return the template with this text."""
        if arguments or options:
            return super().from_string(source, *arguments, **options)
        return self._compiled(source)

    def handle_exception(self, source: str | None = None) -> NoReturn:
        """Raise the exception of a template again.

        Raises:
            ConfigError: the template does what the sandbox does not allow.
        """
        try:
            super().handle_exception(source)
        except (SecurityError, OverflowError) as error:  # OverflowError: too long a range
            raise ConfigError(
                f"A template of a task does what a template may not do ({one_line(error)}); change "
                "the template in the task's YAML."
            ) from None
