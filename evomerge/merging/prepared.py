"""A cache of prepared merges: what does not depend on knobs is not computed for every candidate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from evomerge.merging.methods.method import Merge


@dataclass
class PreparedMerges:
    """Prepared merges by key, at most `room` bytes; threads may use it at the same time.

    If there is no room, merges that neither this candidate nor the one before has used are dropped,
    the least recently used first. So if all candidates use the same merges, the same ones are
    always kept, in whatever order threads come to them.
    """

    room: int
    _merges: dict[object, tuple[Merge, int, int]] = field(default_factory=dict)
    _used: int = 0
    _candidate: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin_candidate(self) -> None:
        """Note that the following merges belong to a new candidate."""
        self._candidate += 1

    def find(self, key: object) -> Merge | None:
        """Return the merge that is kept under a key, or None; note that this candidate uses it."""
        with self._lock:
            found = self._merges.pop(key, None)
            if found is None:
                return None
            self._merges[key] = (*found[:2], self._candidate)
            return found[0]

    def keep(self, key: object, size: int, prepare: Callable[[], Merge]) -> None:
        """Prepare a merge that takes `size` bytes and keep it, if there is room for it."""
        with self._lock:
            for old, (_, taken, candidate) in list(self._merges.items()):
                if self._used + size <= self.room or candidate >= self._candidate - 1:
                    break
                del self._merges[old]
                self._used -= taken
            if self._used + size > self.room:
                return
            self._used += size
        try:
            merge = prepare()
        except BaseException:
            with self._lock:
                self._used -= size
            raise
        with self._lock:
            self._merges[key] = (merge, size, self._candidate)
