"""Checks of values in plain data (from YAML or JSON), with one sentence if a type is wrong."""

import math
import reprlib
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

from evomerge.errors import InputError, among

_LONGEST = 200
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 4, 100, 100


def shown(value: object) -> str:
    """Return a value for an error message: its `repr`, cut if it is long or deeply nested."""
    text = _SHORT.repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def path_of(value: object, name: str, others: str = "") -> Path:
    """Return the path that an argument is; InputError: it is none. `others` may be given, too."""
    if not isinstance(value, (str, PathLike)):
        raise InputError(f"{name} is {shown(value)}; give a path, as text or a `Path`{others}.")
    return Path(value)


def replaced(value: Any, new: Callable[[Any], Any], key: Callable[[str], str] | None = None) -> Any:
    """Return plain data in which every value is replaced, at any depth of lists and mappings.

    `new` gets what is neither a list nor a mapping. `key` gets the keys; None: they stay.
    """
    if isinstance(value, Mapping):
        return {key(k) if key else k: replaced(item, new, key) for k, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [replaced(item, new, key) for item in value]
    return new(value)


@dataclass(frozen=True)
class Values:
    """Checks that values from YAML or JSON have the type that is needed.

    Every check takes a value and `where`, its address in the file (`slices[0].sources`). It returns
    the value, or raises `error`, which says what a value must be.
    """

    error: type[InputError]

    def mapping(
        self, value: Any, where: str, allowed: Collection[str] | None = None
    ) -> Mapping[str, Any]:
        """Return a mapping whose keys are text and, if `allowed` is given, only allowed keys."""
        if not isinstance(value, Mapping):
            raise self.wrong(value, where, f"a mapping of {', '.join(allowed or ['keys'])}")
        for key in value:
            if not isinstance(key, str):
                raise self.error(
                    f"The key {shown(key)} in `{where}` is not text; put quotes around it."
                )
            if allowed is not None and key not in allowed:
                names = among(key, allowed)
                raise self.error(f"Unknown key {shown(key)} in `{where}`; allowed are {names}")
        return value

    def items(self, value: Any, where: str, *, least: int = 0) -> Sequence[Any]:
        """Return a list or tuple with at least `least` entries (0 or 1)."""
        if isinstance(value, (list, tuple)) and len(value) >= least:
            return value
        raise self.wrong(value, where, "a list" + (" with at least one entry" * (least > 0)))

    def text(self, value: Any, where: str, kind: str = "text") -> str:
        """Return text that is not empty."""
        if isinstance(value, str) and value:
            return value
        raise self.wrong(value, where, kind)

    def whole(self, value: Any, where: str, *, least: int = 0, most: float = math.inf) -> int:
        """Return a whole number from `least` to `most`; true and false are not numbers here."""
        if type(value) is int and least <= value <= most:
            return value
        to = f" to {most}" if most < math.inf else ""
        raise self.wrong(value, where, f"a whole number from {least}{to}")

    def real(self, value: Any, where: str, kind: str = "a number") -> float:
        """Return a finite number; true and false count as 1 and 0."""
        if not isinstance(value, (int, float)):
            raise self.wrong(value, where, kind)
        if not abs(value) <= sys.float_info.max:
            raise self.error(f"`{where}` is {shown(value)}; every number must be finite.")
        return float(value)

    def flag(self, value: Any, where: str) -> bool:
        """Return true or false."""
        if isinstance(value, bool):
            return value
        raise self.wrong(value, where, "true or false")

    def wrong(self, value: Any, where: str, kind: str) -> InputError:
        """Return the error that says what a value must be."""
        return self.error(f"`{where}` is {shown(value)}; it must be {kind}.")
