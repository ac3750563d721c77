"""What is kept from candidate to candidate: the parts of merges that no knob changes.

The rule: what a candidate needs is kept while there is room. When there is none, parts that this
candidate has not used are dropped, the longest unused first; parts it has used never are, so
candidates of one shape keep the same parts. What does not fit is computed each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from evomerge.merge.methods.method import Merge


@dataclass
class Kept:
    """Prepared merges by key, within a bound; threads may share it.

    Attributes:
        room: bytes that may be kept.
    """

    room: int
    _parts: dict[object, tuple[Merge, int, int]] = field(default_factory=dict)
    _held: int = 0
    _turn: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Start the next candidate."""
        self._turn += 1

    def get(self, key: object, size: int, prepare: Callable[[bool], Merge]) -> Merge:
        """Return the merge of a key, prepared now where it is not kept.

        Args:
            key: says all that the merge depends on beside its knobs.
            size: bytes it takes to keep.
            prepare: makes it; is told whether it will be used again.
        """
        with self._lock:
            found = self._parts.pop(key, None)
            if found is not None:
                self._parts[key] = (found[0], found[1], self._turn)
                return found[0]
            fits = self._make_room(size)
        if not fits:
            return prepare(False)
        try:
            merge = prepare(True)
        except BaseException:
            with self._lock:
                self._held -= size
            raise
        with self._lock:
            self._parts[key] = (merge, size, self._turn)
        return merge

    def _make_room(self, size: int) -> bool:
        """Drop what may be dropped until `size` bytes fit, and set them aside if they do."""
        for key, (_, held, turn) in list(self._parts.items()):
            if self._held + size <= self.room or turn == self._turn:
                break
            del self._parts[key]
            self._held -= held
        fits = self._held + size <= self.room
        if fits:
            self._held += size
        return fits
