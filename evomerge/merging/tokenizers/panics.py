"""Panics of the tokenizers library."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from evomerge.errors import one_line

_MODULE = "pyo3_runtime"
"""Where the exception of a panic says that it is from; it cannot be imported."""


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic inside into an ordinary error.

    A panic is a fault in the library's Rust code, such as an index that is out of range. It reaches
    Python as an exception that is no `Exception`, so that no handler of errors would catch it.

    Raises:
        RuntimeError: there was a panic.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ == _MODULE:
            raise RuntimeError(one_line(error)) from error
        raise
