"""Flushing a file to disk in the background, so that a writer need not wait for the disk."""

from __future__ import annotations

import os
import threading


class Flusher:
    """Flushes a file to disk again and again, as long as something is new.

    The disk takes a millisecond or twenty for each flush, and one flush serves all that was written
    before it. So the disk is never far behind, and the writer never waits.

    Args:
        file: descriptor of the file, open for writing; it must stay open until `close`.
    """

    def __init__(self, file: int) -> None:
        self._file = file
        self._is_new = threading.Event()
        self._is_closing = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
        self._thread.start()

    def note(self) -> None:
        """Note that something was written.

        Raises:
            OSError: an earlier flush failed.
        """
        if self._error is not None:
            raise self._error
        self._is_new.set()

    def close(self) -> None:
        """Flush what is left, and end.

        Raises:
            OSError: a flush failed.
        """
        self._is_closing = True
        self._is_new.set()
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while self._error is None:
            self._is_new.wait()
            self._is_new.clear()
            is_last = self._is_closing
            try:
                os.fsync(self._file)
            except OSError as error:
                self._error = error
            if is_last:
                return
