"""What the checks have in common: an assertion, and that equal calls give equal results."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def require(condition: object, message: str) -> None:
    """Raise an `AssertionError` if a condition is false, also with `python -O`."""
    if not condition:
        raise AssertionError(message)


def check_repeats(play: Callable[[], T], name: str) -> T:
    """Check that a search repeats exactly, without numpy's global generator; return its result."""
    kept = np.random.get_state()
    np.random.seed(1)
    first = play()
    drawn = np.random.uniform()
    np.random.seed(1)
    require(drawn == np.random.uniform(), f"The {name} draws from numpy's global generator.")
    require(
        first == play(),
        f"The same calls of the {name} gave different proposals, so a run could not be resumed.",
    )
    np.random.set_state(kept)
    return first
