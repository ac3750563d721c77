"""Calling functions of tasks in processes with limits; `cell.py` is the other side."""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import queue
import select
import subprocess
import sys
import time
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from evomerge.evaluation.sandbox.cell import LENGTH, Reply
from evomerge.evaluation.sandbox.confinement import Protection
from evomerge.run.atomic import TemporaryFolder
from evomerge.trust.loading import allowed

_MOST_CELLS = 4

_PATIENCE = 120.0  # seconds beside the time limit of a call, for imports and a busy machine

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from evomerge.evaluation.sandbox.cell import main; "
    "from pathlib import Path; main(Path(sys.argv[2]))"
)

_PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "TMPDIR")


@dataclass(frozen=True)
class Function:
    """A function of a module, which another process can import.

    Attributes:
        module: the name of the module.
        file: its file.
        name: the function's name in it.
    """

    module: str
    file: str
    name: str


class CallError(Exception):
    """A function gave no result. The text says why."""


class CallTypeError(CallError, TypeError):
    """A function raised a TypeError, on which lm-eval calls a metric in another way."""


class MissingFunctionError(Exception):
    """A function cannot be imported in a process with limits. The text says why."""


class Sandbox:
    """Processes with limits, started when they are needed, which call functions.

    All methods can be called by several threads at a time.

    Attributes:
        width: number of calls that run at a time.
    """

    def __init__(self) -> None:
        affinity = getattr(os, "sched_getaffinity", None)  # Linux has it
        cores = len(affinity(0)) if affinity else os.cpu_count() or 1
        self.width = min(_MOST_CELLS, cores)
        self._cells = [_Cell() for _ in range(self.width)]
        self._free: queue.LifoQueue[_Cell] = queue.LifoQueue()
        for cell in self._cells:
            self._free.put(cell)
        weakref.finalize(self, _close, self._cells)

    @cached_property
    def protection(self) -> Protection:
        """What the system of this machine lets the processes forbid themselves."""
        cell = self._free.get()
        try:
            return cell.start()
        finally:
            self._free.put(cell)

    def check(self, function: Function) -> None:
        """Check that a function can be imported there.

        Raises:
            MissingFunctionError: it cannot.
        """
        self._request(function, (), {}, 0)

    def call(self, function: Function, *arguments: Any, seconds: int, **options: Any) -> Any:
        """Call a function and return its result, as JSON gives it (tuples become lists).

        Args:
            function: the function.
            *arguments: its arguments.
            seconds: wall time that it may take, and CPU time that each of its processes may take.
            **options: its keyword arguments.

        Raises:
            CallError: it raised an exception, took too long, or ended its process.
            MissingFunctionError: it cannot be imported.
        """
        return json.loads(self._request(function, arguments, options, seconds))

    def _request(self, function: Function, arguments: Any, options: Any, seconds: int) -> str:
        reference = function.module, function.file, function.name
        cell = self._free.get()
        try:
            kind, text = cell.request((reference, arguments, options, seconds), seconds)
        finally:
            self._free.put(cell)
        if kind == "missing":
            raise MissingFunctionError(text)
        if kind != "done":
            raise CallTypeError(text) if kind == "raised TypeError" else CallError(text)
        return text


class _Cell:
    """One process that runs `cell.main`, started when it is first asked."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._protection: Protection | None = None

    def start(self) -> Protection:
        """Start the process if it does not run; return what the system lets it forbid itself."""
        if self._process is None or self._owner != os.getpid():  # a fork has no cells of its own
            given = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
            threads = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
            path = json.dumps([str(Path(place).absolute()) for place in sys.path])
            self._folder = TemporaryFolder()
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-c", _START, path, str(self._folder.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=given | threads | {"PYTHONHASHSEED": "0", "HF_ALLOW_CODE_EVAL": "1"},
                start_new_session=True,  # Ctrl-C is for the search
            )
            self._owner = os.getpid()
            answer = self._receive(_PATIENCE)
            self._protection = answer and Protection(*answer)
        if self._protection is None:
            self.close()
            raise MissingFunctionError("the process did not start")
        return self._protection

    def request(self, call: Any, seconds: int) -> Reply:
        """Let the process make a call; if it is lost, the next call starts another one."""
        self.start()
        assert self._process is not None and self._process.stdin is not None
        message = pickle.dumps((allowed(), call))
        try:
            self._process.stdin.write(LENGTH.pack(len(message)) + message)
            self._process.stdin.flush()
            reply = self._receive(seconds + _PATIENCE)
        except OSError:
            reply = None
        if reply is None:
            self.close()
            return "lost", "it ended the process that watches it"
        return reply[0], reply[1]

    def _receive(self, seconds: float) -> Any:
        """Return the next message of the process; None if it has ended or takes too long."""
        assert self._process is not None and self._process.stdout is not None
        end = time.monotonic() + seconds
        head = _exactly(self._process.stdout, LENGTH.size, end)
        body = head and _exactly(self._process.stdout, LENGTH.unpack(head)[0], end)
        return json.loads(body) if body else None

    def close(self) -> None:
        """End the process, and remove its folder."""
        process, self._process = self._process, None
        if process is None or self._owner != os.getpid():
            return
        assert process.stdin is not None and process.stdout is not None
        for stream in (process.stdin, process.stdout):
            with contextlib.suppress(OSError):
                stream.close()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        self._folder.close()


def _close(cells: list[_Cell]) -> None:
    for cell in cells:
        cell.close()


def _exactly(stream: IO[bytes], count: int, end: float) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        if not select.select([stream], [], [], max(0.0, end - time.monotonic()))[0]:
            return None
        more = os.read(stream.fileno(), count - len(data))
        if not more:
            return None
        data += more
    return bytes(data)
