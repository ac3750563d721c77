"""Keeping from a search what a tracker changes in this process."""

from __future__ import annotations

import io
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path


@contextmanager
def isolated() -> Iterator[None]:
    """While the context is open, code of a tracker may change the state of this process.

    What it prints on standard output is dropped, and it cannot ask for input. Restored are the
    current folder, the handlers of SIGINT and SIGTERM, `sys.exit` and `sys.excepthook`. For the
    main thread only: Python lets no other thread set signal handlers.
    """
    folder, keyboard = Path.cwd(), sys.stdin
    leave, hook = sys.exit, sys.excepthook
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    sys.stdin = io.StringIO()
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        sys.stdin = keyboard
        os.chdir(folder)
        sys.exit, sys.excepthook = leave, hook
        for number, handler in handlers.items():
            signal.signal(number, handler)
