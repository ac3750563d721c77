"""Counts how many processes ended in the middle of a job, in the file `attempts.jsonl` of a run.

A candidate can end the process that scores it, for example by a segmentation fault, and a resumed
search would try it again, without end. One whose job has begun `MAX_ATTEMPTS` times without an end
counts as failed. A job that a signal interrupts is withdrawn.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import DeviceError
from evomerge.run.atomic import replace_text
from evomerge.run.timings import append_line, lines_of

MAX_ATTEMPTS = 3
"""Number of processes that end while they score a candidate, at which it counts as failed."""


class Attempts:
    """The jobs that have begun and not ended, over all sessions; lines that do not fit are none."""

    def __init__(self, path: Path) -> None:
        self._path, self._begun = path, Counter[str]()
        for text in lines_of(path):
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                line = json.loads(text)
                job, what = line["job"], line["what"]
                self._begun[job] += {"begins": 1, "withdrawn": -1}.get(what, -self._begun[job])
        if path.is_file():
            lines = ({"job": job, "what": "begins"} for job in self._begun.elements())
            replace_text(path, "".join(json.dumps(line) + "\n" for line in lines))

    def count(self, job: str) -> int:
        """Return how many processes have ended in the middle of a job."""
        return max(0, self._begun[job])

    def add(self, job: str) -> int:
        """Note that a process ended in the middle of a job. Returns `count(job)`."""
        self._write(job, "begins")
        self._begun[job] += 1
        return self.count(job)

    @contextmanager
    def trying(self, job: str) -> Iterator[None]:
        """Note that a job begins, and that it ends or is withdrawn when the block ends.

        A DeviceError counts as an end in the middle of the job.
        """
        self._write(job, "begins")
        try:
            yield
        except DeviceError:
            raise
        except BaseException:
            self._write(job, "withdrawn")
            raise
        self._write(job, "ends")

    def _write(self, job: str, what: str) -> None:
        append_line(self._path, {"job": job, "what": what})
