"""A cache of prepared merges: what does not depend on knobs is not computed for every candidate.

The merges of a candidate are added as long as there is room. If there is none, merges that neither
this candidate nor the one before has used are dropped, the least recently used first. So if all
candidates use the same merges, the same ones are always in the cache, in whatever order threads
come to them. A merge that does not fit is prepared again each time.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from evomerge.merging.methods.method import Merge


@dataclass
class PreparedMerges:
    """Prepared merges by key, at most `room` bytes; threads may use it at the same time."""

    room: int
    _merges: dict[object, tuple[Merge, int, int]] = field(default_factory=dict)
    _used: int = 0
    _candidate: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_candidate(self) -> None:
        """Note that the following merges belong to a new candidate."""
        self._candidate += 1

    def find(self, key: object) -> Merge | None:
        """Return the merge that is kept under a key, or None; note that this candidate uses it.

        The key identifies everything that the merge depends on, except knobs.
        """
        with self._lock:
            found = self._merges.pop(key, None)
            if found is None:
                return None
            self._merges[key] = (found[0], found[1], self._candidate)
            return found[0]

    def keep(self, key: object, size: int, prepare: Callable[[], Merge]) -> None:
        """Prepare a merge that takes `size` bytes and keep it, if there is room for it."""
        with self._lock:
            if not self._reserve(size):
                return
        try:
            merge = prepare()
        except BaseException:
            with self._lock:
                self._used -= size
            raise
        with self._lock:
            self._merges[key] = (merge, size, self._candidate)

    def _reserve(self, size: int) -> bool:
        """Drop merges until `size` bytes fit; if they do, count them as used and return True."""
        for key, (_, taken, candidate) in list(self._merges.items()):
            if self._used + size <= self.room or candidate >= self._candidate - 1:
                break
            del self._merges[key]
            self._used -= taken
        fits = self._used + size <= self.room
        if fits:
            self._used += size
        return fits
