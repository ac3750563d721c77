"""Texts from files, as trackers and optuna-dashboard can store and show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.errors import printable, without_controls


def storable(value: Any) -> Any:
    """Return a value without what other programs cannot store or show, also in lists and mappings.

    A key becomes one line of printable characters, cut to `evomerge.errors.LONGEST`. Other texts
    lose control characters and unpaired surrogates.
    """
    if isinstance(value, str):
        return without_controls(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): storable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [storable(item) for item in value]
    return value
