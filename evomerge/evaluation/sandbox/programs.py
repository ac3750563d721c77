"""Running Python programs that a model has written, with the semantics of `code_eval`.

A program passes if it reaches its end within the time limit. What it may call, what it sees as
standard input and output, and how it is stopped are as in `code_eval` of Hugging Face's `evaluate`,
which has them from OpenAI's HumanEval (Chen et al. 2021, https://arxiv.org/abs/2107.03374), since
scores depend on them. They keep a program from doing harm by accident; what protects the machine
is `confinement.py`, in which this runs.
"""

from __future__ import annotations

import builtins
import contextlib
import faulthandler
import io
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from types import FrameType
from typing import Any, NoReturn

from evomerge.evaluation.sandbox.confinement import close_files, limit_cpu

_MOST_OUTPUT = 10_000_000  # characters that a program may print

_PASSED = b"1"

_FORBIDDEN = {
    builtins: ("exit", "quit", "help"),
    os: (
        "kill", "system", "putenv", "remove", "removedirs", "rmdir", "fchdir", "setuid", "fork",
        "forkpty", "killpg", "rename", "renames", "truncate", "replace", "unlink", "fchmod",
        "fchown", "chmod", "chown", "chroot", "lchflags", "lchmod", "lchown", "getcwd", "chdir",
    ),
    shutil: ("rmtree", "move", "chown"),
    subprocess: ("Popen",),
}  # fmt: skip
_MODULES = ("ipdb", "joblib", "resource", "psutil", "tkinter")


class _TimeoutError(Exception):
    """The program took too long. It can be caught by the program's own `except Exception`."""


def passed(programs: Sequence[str], timeout: float, width: int) -> list[bool]:
    """Run programs, each in a process of its own, and return which of them passed.

    Args:
        programs: the texts of Python programs.
        timeout: seconds of wall time after which a program fails.
        width: largest number of programs that run at a time.
    """
    results = [False] * len(programs)
    running: dict[int, tuple[int, int, float]] = {}  # pipe -> place, process, end
    waiting = list(enumerate(programs))[::-1]
    while waiting or running:
        while waiting and len(running) < width:
            place, program = waiting.pop()
            pipe, process = _start(program, timeout)
            running[pipe] = place, process, time.monotonic() + timeout + 1
        left = min(end for _, _, end in running.values()) - time.monotonic()
        ready = select.select(list(running), [], [], max(0.0, left))[0]
        late = [pipe for pipe, (_, _, end) in running.items() if end <= time.monotonic()]
        for pipe in {*ready, *late}:
            place, process, _ = running.pop(pipe)
            results[place] = pipe in ready and os.read(pipe, 1) == _PASSED
            os.close(pipe)
            with contextlib.suppress(OSError):
                os.kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
    return results


def _start(program: str, timeout: float) -> tuple[int, int]:
    """Start a program; return the end of the pipe that its result comes from, and its process."""
    reading, writing = os.pipe()
    leave, write = os._exit, os.write  # a program may replace them
    process = os.fork()
    if process == 0:
        try:
            close_files(writing)
            _run(program, timeout)
            write(writing, _PASSED)
        finally:
            leave(0)
    os.close(writing)
    return reading, process


def _run(program: str, timeout: float) -> None:
    """Run a program in this process, which must end afterwards; return if it passes."""
    os.chdir(tempfile.mkdtemp())
    limit_cpu(int(timeout) + 2)
    _forbid()
    output = _WriteOnly()
    with (
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
        _redirect_stdin(output),
    ):
        signal.signal(signal.SIGALRM, _stop)
        signal.setitimer(signal.ITIMER_REAL, timeout)
        try:
            exec(program, {})
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _stop(number: int, frame: FrameType | None) -> NoReturn:
    raise _TimeoutError


def _forbid() -> None:
    """Take away what a program could do harm with by accident."""
    faulthandler.disable()
    os.environ["OMP_NUM_THREADS"] = "1"
    for module, names in _FORBIDDEN.items():
        for name in names:
            setattr(module, name, None)
    for name in _MODULES:
        sys.modules[name] = None  # type: ignore[assignment]


class _WriteOnly(io.StringIO):
    """What a program prints to: it cannot be read, and holds only so much."""

    def __init__(self) -> None:
        super().__init__()
        self._written = 0

    def write(self, text: str) -> int:
        self._written += len(text)
        if self._written > _MOST_OUTPUT:
            raise OSError
        return super().write(text)

    def read(self, *arguments: Any) -> NoReturn:
        raise OSError

    readline = readlines = read

    def readable(self) -> bool:
        return False


class _redirect_stdin(contextlib._RedirectStream[io.StringIO]):  # noqa: N801
    _stream = "stdin"
