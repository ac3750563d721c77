"""An assertion that also holds with `python -O`."""

from __future__ import annotations


def require(condition: object, message: str) -> None:
    """Raise an `AssertionError` if a condition is false, also with `python -O`."""
    if not condition:
        raise AssertionError(message)
