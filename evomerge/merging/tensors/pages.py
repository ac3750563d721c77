"""Files mapped into memory, and keeping a process within a bound while it works on them.

Pages of a mapped file can be given back at any time, even while they are in use: they are found
again in the system's cache, or read again from disk. So tensors that do not fit in memory together
with their sources (embeddings of a large vocabulary) can be merged by code that knows nothing
of it.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_EVERY_SECONDS = 0.01
_NO_RESERVE = 0x4000 if sys.platform == "linux" else 0  # mmap has its name from Python 3.13 on


def map_file(file: Path, *, writable: bool) -> mmap.mmap:
    """Map a file, whose pages are shared with all processes that map it too.

    Args:
        file: is never changed.
        writable: a page that is written to becomes a copy of this process's own. Where the system
            does not allow for that much memory, the map is read-only all the same.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is empty.
    """
    with file.open("rb") as stream:
        if writable:
            # Without a reserve: parents may be larger than the memory, and few pages are written.
            with suppress(OSError):
                return mmap.mmap(
                    stream.fileno(),
                    0,
                    flags=mmap.MAP_PRIVATE | _NO_RESERVE,
                    prot=mmap.PROT_READ | mmap.PROT_WRITE,
                )
        return mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)


class Pages:
    """The maps whose pages may be given back."""

    def __init__(self) -> None:
        self._maps: dict[int, mmap.mmap] = {}
        self._lock = threading.Lock()

    def add(self, mapped: mmap.mmap) -> None:
        """Take on a map of a file."""
        with self._lock:
            self._maps[id(mapped)] = mapped

    def drop(self, mapped: mmap.mmap) -> None:
        """Forget a map that is about to be closed."""
        with self._lock:
            del self._maps[id(mapped)]

    def release(self) -> None:
        """Give back the memory of all pages, whoever uses them."""
        with self._lock:
            for mapped in self._maps.values():
                mapped.madvise(mmap.MADV_DONTNEED)

    @contextmanager
    def bounded(self, memory: int) -> Iterator[None]:
        """Release pages whenever the process holds more than `memory` bytes in the block."""
        stop = threading.Event()

        def watch() -> None:
            while not stop.wait(_EVERY_SECONDS):
                if resident_bytes() > memory:
                    self.release()

        watcher = threading.Thread(target=watch, name="evomerge-pages", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()


def resident_bytes() -> int:
    """Return the resident set of this process in bytes (0 where the system does not tell)."""
    try:
        text = Path("/proc/self/statm").read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE")
