"""The format of log messages, which may quote a file, for a terminal and for `log.txt`."""

from __future__ import annotations

import logging

from evomerge.errors import without_controls


class PlainFormatter(logging.Formatter):
    """Formats as its base class does, without characters that steer a terminal."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message, with a traceback if it has one."""
        return without_controls(super().format(record))
