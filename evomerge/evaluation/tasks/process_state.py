"""Restoring the state of this process after an objective function has run.

Functions are a user's code, and what they leave behind would change how later candidates are
scored. Restored are: random generators, the current folder, environment variables, standard output
and error, what numpy and Python do with warnings, torch's global settings and hooks, and the
attributes of the model's classes (a replaced `type(model).forward`). A call of `os._exit` raises
SystemExit instead.

Not restored is what has no list to compare with: functions that are replaced inside other
libraries (`torch.nn.functional.softmax = ...`). Code outside of Python can still end the process,
and so can `os.abort`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NoReturn

from evomerge.evaluation.inference.quiet import seeded


@contextmanager
def process_state_restored(body: Any, model: Any) -> Iterator[None]:
    """While the context is open, code may change the state of this process; then restore it.

    A process that the code forks ends at the end of the block.

    Args:
        body: the function that runs inside; `os._exit` is also replaced where its module holds it
            under a name of its own.
        model: the model that the function receives; None, or no module, has no classes to restore.
    """
    folder, streams = os.getcwd(), (sys.stdout, sys.stderr)  # noqa: PTH109
    process = os.getpid()
    sys.stdout, sys.stderr = _Unclosable(sys.stdout), _Unclosable(sys.stderr)
    try:
        with (
            _exit_raises(body),
            _environment_restored(),
            _warnings_restored(),
            _torch_restored(),
            _classes_restored(model),
            seeded(),
        ):
            yield
    finally:
        if os.getpid() != process:
            os._exit(1)
        sys.stdout, sys.stderr = streams
        os.chdir(folder)


class _Unclosable:
    """A text stream that cannot be closed."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def close(self) -> None:
        """Do nothing."""


@contextmanager
def _exit_raises(body: Any) -> Iterator[None]:
    """Let `os._exit` raise SystemExit in this process; forked processes still end."""
    leave, process = os._exit, os.getpid()

    def refuse(status: int) -> NoReturn:
        if os.getpid() != process:
            leave(status)
        raise SystemExit(f"os._exit({status})")

    names = getattr(body, "__globals__", {})
    bound = [name for name, value in names.items() if value is leave]
    os._exit = refuse
    for name in bound:
        names[name] = refuse
    try:
        yield
    finally:
        os._exit = leave
        for name in bound:
            names[name] = leave


@contextmanager
def _environment_restored() -> Iterator[None]:
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in os.environ.keys() - before.keys():
            del os.environ[name]
        os.environ.update({k: value for k, value in before.items() if os.environ.get(k) != value})


@contextmanager
def _warnings_restored() -> Iterator[None]:
    """Restore whether warnings and numpy's floating-point faults are raised as exceptions."""
    import numpy as np

    faults, filters = np.geterr(), list(warnings.filters)
    try:
        yield
    finally:
        np.seterr(**faults)
        if list(warnings.filters) != filters:
            warnings.resetwarnings()  # it also tells Python that the list has changed
            warnings.filters[:] = filters  # type: ignore[index]


@contextmanager
def _torch_restored() -> Iterator[None]:
    import torch

    hooks = [
        (found, dict(found))
        for name, found in vars(torch.nn.modules.module).items()
        if name.startswith("_global_") and isinstance(found, dict)
    ]
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    gradients, device = torch.is_grad_enabled(), torch.get_default_device()
    strict = torch.are_deterministic_algorithms_enabled()
    lenient = torch.is_deterministic_algorithms_warn_only_enabled()
    precision = torch.get_float32_matmul_precision()
    try:
        yield
    finally:
        torch.set_default_dtype(dtype)
        torch.set_grad_enabled(gradients)
        if torch.get_default_device() != device:
            torch.set_default_device(device)
        torch.use_deterministic_algorithms(strict, warn_only=lenient)
        if torch.get_float32_matmul_precision() != precision:
            torch.set_float32_matmul_precision(precision)
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)
        for found, before in hooks:
            if found != before:
                found.clear()
                found.update(before)


@contextmanager
def _classes_restored(model: Any) -> Iterator[None]:
    """Restore the attributes of all classes that the model's modules are made of.

    Attributes that Python does not let anyone set or delete need no restoring and are passed over.
    """
    modules = model.modules() if hasattr(model, "modules") else ()
    classes = {kind for module in modules for kind in type(module).__mro__ if kind is not object}
    before = {kind: dict(vars(kind)) for kind in classes}
    try:
        yield
    finally:
        for kind, attributes in before.items():
            now = dict(vars(kind))
            for name in now.keys() - attributes.keys():
                if name.startswith("__"):  # caches of Python's own, such as annotations
                    continue
                with suppress(AttributeError, TypeError):
                    delattr(kind, name)
            for name, value in attributes.items():
                if now.get(name) is not value:
                    with suppress(AttributeError, TypeError):
                        setattr(kind, name, value)
