"""What was being scored when a process ended without a word.

A candidate can bring down the process it is scored in: a segmentation fault, the system's killer
of processes that take too much memory. A resumed search would try it again, for ever. So the file
`attempts.jsonl` of a run holds a line for each job that begins and for each that ends, and a
candidate whose job has begun `MOST` times and never ended is given up.

Nothing else depends on this file. A search that is interrupted or terminated by a signal says that
its job has ended; a process that is killed outright does not, nor one whose accelerator has failed,
for a candidate can do that too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from evomerge.errors import DeviceError

MOST = 3
"""Processes that may end while they score one candidate, before it counts as failed."""


class Attempts:
    """Jobs that have begun and not ended, over all sessions of a run.

    Args:
        path: the file; lines that cannot be read are passed over.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._begun: Counter[str] = Counter()
        for job, what in self._lines():
            self._begun[job] += {"begins": 1, "withdrawn": -1}.get(what, -self._begun[job])
        left = [job for job, count in self._begun.items() for _ in range(count)]
        with suppress(OSError):
            if left:
                path.write_text("".join(_line(job, "begins") for job in left), encoding="utf-8")
            else:
                path.unlink(missing_ok=True)

    def count(self, job: str) -> int:
        """Return how many processes have ended in the middle of a job."""
        return max(0, self._begun[job])

    @contextmanager
    def trying(self, job: str) -> Iterator[None]:
        """Hold a job as begun while the block runs; one that is interrupted does not count.

        One that raises DeviceError counts as if the process had ended in it.
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
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_line(job, what))

    def _lines(self) -> Iterator[tuple[str, str]]:
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            return
        for text in lines:
            with suppress(ValueError, RecursionError):
                line = json.loads(text)
                if isinstance(line, dict) and isinstance(line.get("job"), str):
                    yield line["job"], str(line.get("what"))


def _line(job: str, what: str) -> str:
    return json.dumps({"job": job, "what": what}) + "\n"
