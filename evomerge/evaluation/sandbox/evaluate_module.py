"""A module `evaluate` with our `code_eval`, for tasks that ask Hugging Face's `evaluate` for it.

Hugging Face's `evaluate` downloads the script of a metric from the Hub and runs it in the process
that asks. What a task imports instead needs no Hub, and runs nothing but what `programs.py` runs.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

from evomerge.trust.loading import read
from evomerge.trust.task_files import files_of_metric

_NAMES = ("code_eval", "evaluate-metric/code_eval")


@contextmanager
def code_eval_provided() -> Iterator[None]:
    """While the context is open, `import evaluate` gives a module that has this `code_eval`.

    Everything else that is asked of this module comes from `evaluate` itself.
    """
    before = sys.modules.get("evaluate")
    sys.modules["evaluate"] = _Evaluate(before)
    try:
        yield
    finally:
        del sys.modules["evaluate"]
        if before is not None:
            sys.modules["evaluate"] = before


class _Evaluate(ModuleType):
    """Stands for the module `evaluate`."""

    def __init__(self, real: ModuleType | None) -> None:
        super().__init__("evaluate")
        self._real = real

    def load(self, path: str, *arguments: Any, **options: Any) -> Any:
        """Return a metric.

        Raises:
            NotAllowedError: it is a script on this machine that was not allowed to run.
        """
        if path in _NAMES:
            from evomerge.evaluation.sandbox.code_eval import compute

            return SimpleNamespace(name="code_eval", compute=compute)
        for script in files_of_metric(path):
            read(script)
        return self._evaluate().load(path, *arguments, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._evaluate(), name)

    def _evaluate(self) -> ModuleType:
        if self._real is None:
            del sys.modules["evaluate"]
            try:
                self._real = importlib.import_module("evaluate")
            finally:
                sys.modules["evaluate"] = self
        return self._real
