"""What a part of a soak gives: counts for the table, and what went wrong."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Part:
    """The result of a part.

    Attributes:
        name: for the table.
        tried: number of attacks.
        survived: how many of them ended as promised.
        details: name -> further figures.
        faults: a sentence for each attack that did not end as promised.
    """

    name: str
    tried: int = 0
    survived: int = 0
    details: dict[str, Any] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)

    def count(self, fault: str | None) -> None:
        """Add an attack; `fault` says what went wrong, None: nothing."""
        self.tried += 1
        if fault is None:
            self.survived += 1
        else:
            self.faults.append(fault)
