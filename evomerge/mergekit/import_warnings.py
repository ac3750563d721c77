"""What is doubtful in a mergekit file: keys that mergekit ignores, and models that it leaves open.

Each is a sentence that a person is warned with.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from evomerge.errors import RecipeError, did_you_mean
from evomerge.parsing.values import Values, shown

_VALUES = Values(RecipeError)


class ImportWarnings:
    """Collects the doubts about a mergekit file."""

    def __init__(self) -> None:
        self._notes: dict[str, None] = {}

    @property
    def notes(self) -> tuple[str, ...]:
        """All doubts, each once, in the order of the file."""
        return tuple(self._notes)

    def add(self, sentence: str) -> None:
        """Add a doubt."""
        self._notes.setdefault(sentence)

    def known(
        self, data: Any, where: str, known: Collection[str], elsewhere: Collection[str] = ()
    ) -> Mapping[str, Any]:
        """Return a mapping of the file; each key that is not known is a doubt.

        Args:
            data: the value in the file.
            where: its address in the file; empty for the whole file.
            known: the keys that count here.
            elsewhere: names of the method's parameters, which belong under `parameters`.

        Raises:
            RecipeError: it is no mapping.
        """
        if not isinstance(data, Mapping):
            raise _VALUES.wrong(data, where, f"a mapping of {', '.join(known)}")
        place = f" in `{where}`" if where else ""
        for key in _VALUES.mapping(data, where or "the mergekit file"):
            if key not in known:
                fix = "move it to `parameters`" if key in elsewhere else "remove it"
                self.add(
                    f"Key {shown(key)}{place} is ignored, as in mergekit; {fix}."
                    f"{did_you_mean(key, known)}"
                )
        return data
