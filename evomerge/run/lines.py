"""The lines of a journal: eight hexadecimal digits of CRC-32, a space, an event as JSON, a newline.

The JSON of a line begins with the number of the line (`n`, from 1) and with a digest of the line
before it (`after`). So a line that is missing, doubled, in another place or from another journal is
noticed, even if its checksum is right.
"""

from __future__ import annotations

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from typing import Any, TypeAlias

from evomerge.errors import RunFolderError
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import shown

FORMAT = 3
"""Version of the journal format."""

Event: TypeAlias = dict[str, Any]
"""One event as plain JSON."""

HEADER: Event = {"event": "header", "format": FORMAT}
"""The first event of a new journal."""

_BEGINNING = re.compile(rb"[0-9a-f]{8} ")
_TORN = re.compile(rb"[^\x00-\x1f]*\x00*")  # a power cut may leave zeros


class LineError(ValueError):
    """A line is not the next one of its journal; the text says why, as `does not match ...`."""


class FormatError(ValueError):
    """A journal has a format that this version does not read; the text is the format."""


class JournalCodec:
    """Makes the lines of a journal one after the other, or checks them, and counts them."""

    def __init__(self) -> None:
        self.count = 0
        self._link = ""

    def encode(self, event: Mapping[str, Any]) -> bytes:
        """Return the line, with newline, of the next event, which has no fields `n` and `after`."""
        place = {"n": self.count + 1, "after": self._link}
        plain = json.dumps({**place, **event}, separators=(",", ":"), ensure_ascii=False)
        text = plain.encode()
        line = b"%08x " % zlib.crc32(text) + text
        self._pass(line)
        return line + b"\n"

    def decode(self, line: bytes) -> Event:
        """Return the event of the next line (given without newline), without `n` and `after`.

        LineError: it is not the next line of this journal. FormatError: it has another format.
        """
        event = _checked(line)
        if self.count == 0:
            if event.get("event") != "header":
                raise LineError("is not the header of a journal")
            found = event.get("format")
            if isinstance(found, bool) or found != FORMAT:
                raise FormatError(shown(found))
        number, link = event.pop("n", None), event.pop("after", None)
        if number != self.count + 1 or isinstance(number, bool):
            raise LineError(
                f"has the number {shown(number)}, so lines are missing, doubled or swapped"
            )
        if link != self._link:
            raise LineError("does not follow the line before it, which was changed")
        self._pass(line)
        return event

    def may_be_torn(self, rest: bytes) -> bool:
        """Return whether what follows the last newline can be a line that was cut off by a kill.

        JSON has no control characters, so a file whose newlines were replaced is not one long line.
        """
        if self.count == 0:
            return JournalCodec().encode(HEADER).startswith(rest.rstrip(b"\0"))
        return _TORN.fullmatch(rest) is not None

    def _pass(self, line: bytes) -> None:
        self.count += 1
        self._link = hashlib.sha256(line).hexdigest()[:16]


def _checked(line: bytes) -> Event:
    """Return what a line says, if its checksum is right."""
    if not _BEGINNING.match(line):
        raise LineError("is not a line of a journal")
    if not _is_whole(line):
        if line.endswith(b"\r") and _is_whole(line[:-1]):
            raise LineError("ends with CR LF, which another program has made of LF")
        raise LineError("does not match its checksum")
    try:
        event = json_value(line[9:], "the line", RunFolderError)
    except RunFolderError:
        event = None
    if not isinstance(event, dict):
        raise LineError("has no event as JSON")
    return event


def _is_whole(line: bytes) -> bool:
    return line[:9] == b"%08x " % zlib.crc32(line[9:])
