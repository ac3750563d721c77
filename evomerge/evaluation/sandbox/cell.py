"""The process that runs functions of tasks on what a model has written: each in a child of its own.

This process is small: it has imported the tasks' functions, but neither torch nor lm-eval. It reads
calls from its standard input and writes results to its standard output, one after the other. It
trusts what it reads, but not its children: results are JSON.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import pickle
import select
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, TypeAlias

from evomerge.evaluation.sandbox import code_eval, kernel
from evomerge.evaluation.sandbox.confinement import Protection, confine
from evomerge.evaluation.sandbox.evaluate_module import code_eval_provided
from evomerge.trust.loading import allow_again, load_allowed

LENGTH = struct.Struct("!Q")
"""In front of each message: its length in bytes."""

_MOST_BYTES = 16 << 20  # of a result

_WAIT = 5.0  # seconds after which it is looked whether the evaluating process is still there

Reply: TypeAlias = tuple[str, str]
"""What became of a call: (`done`, its result as JSON), or (the kind of failure, the reason).

The kinds are `raised` (an exception), `raised TypeError`, `lost` (the process ended without a
result or took too long), and `missing` (there is no such function).
"""


def main(folder: Path) -> None:
    """Serve calls until the standard input is closed, or the parent has ended.

    Args:
        folder: an empty folder, which is removed at the end.
    """
    parent = os.getppid()
    calls, results = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb")
    protection = _protect()
    code_eval.allow()
    gc.freeze()  # so that a child copies less
    _send(results, [protection.namespaces, protection.landlock])
    functions: dict[tuple[str, str, str], Callable[..., Any]] = {}
    try:
        while (message := _receive(calls, parent)) is not None:
            allowed, (reference, arguments, options, seconds) = pickle.loads(message)
            allow_again(allowed)
            try:
                if reference not in functions:
                    functions[reference] = _function(*reference)
                reply = "done", ""
                if seconds:
                    call = functions[reference], arguments, options
                    reply = _call(call, seconds, protection, folder)
            except Exception as error:
                reply = "missing", f"{type(error).__name__}: {error}"
            _send(results, reply)
    finally:
        _remove(folder)


def _protect() -> Protection:
    """Leave the network, and return what the system allows the children of this process.

    A child tries it first, since what is half done cannot be undone.
    """
    if not kernel.has_kernel():
        return Protection(namespaces=False, landlock=0)
    kernel.adopt_orphans()
    process = os.fork()
    if process == 0:
        namespaces = landlock = False
        try:
            with contextlib.suppress(OSError):
                namespaces = kernel.leave_network() and kernel.leave_processes()
            landlock = kernel.restrict_files([], [])
        finally:
            os._exit(namespaces | landlock << 1)
    works = max(0, os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]))
    if works & 1:
        kernel.leave_network()
    return Protection(bool(works & 1), kernel.landlock_version() if works & 2 else 0)


def _function(module: str, file: str, name: str) -> Callable[..., Any]:
    """Import a task's module from its file, as lm-eval does, and return a function of it."""
    known = sys.modules.get(module)
    if known is None or getattr(known, "__file__", None) != file:
        with code_eval_provided(), contextlib.redirect_stdout(sys.stderr):
            known = load_allowed(module, Path(file))
    found: Any = known
    for part in name.split("."):
        found = getattr(found, part)
    return found  # type: ignore[no-any-return]


def _call(call: Any, seconds: int, protection: Protection, folder: Path) -> Reply:
    """Call a function in a confined child, and remove all that the child leaves."""
    own = Path(tempfile.mkdtemp(dir=folder))
    reading, writing = os.pipe()
    try:
        process = os.fork()
        if process == 0:
            try:
                os.setsid()
                if kernel.has_kernel():
                    kernel.end_with_parent()
                _be_alone(writing, protection)
                confine(own, seconds, protection, writing)
                _write(writing, json.dumps(_outcome(*call)).encode())
            finally:
                os._exit(0)
        os.close(writing)
        answer = _read(reading, time.monotonic() + seconds)
        _end(process)
    finally:
        os.close(reading)
        _remove(own)
    if answer is None:
        return "lost", f"it gave no result within {seconds} seconds, or ended its process"
    with contextlib.suppress(ValueError, TypeError):
        kind, text = json.loads(answer)
        return str(kind), str(text)
    return "lost", "it wrote something else in place of its result"


def _be_alone(kept: int, protection: Protection) -> None:
    """Go on in a new process that sees no others; this one waits for its end."""
    if not protection.namespaces or not kernel.leave_processes():
        return
    process = os.fork()
    if process:
        os.close(kept)
        os.waitpid(process, 0)
        os._exit(0)
    kernel.end_with_parent()


def _outcome(function: Callable[..., Any], arguments: Any, options: Any) -> Reply:
    try:
        return "done", json.dumps(function(*arguments, **options), default=_plain)
    except BaseException as error:
        kind = "raised TypeError" if isinstance(error, TypeError) else "raised"
        return kind, f"{type(error).__name__}: {error}"[:1000]


def _plain(value: Any) -> Any:
    """Return a number, an array or a sequence of another kind as JSON can write it."""
    return value.tolist() if hasattr(value, "tolist") else list(value)


def _write(pipe: int, message: bytes) -> None:
    data = LENGTH.pack(len(message)) + message
    while data:
        data = data[os.write(pipe, data) :]


def _read(pipe: int, end: float) -> bytes | None:
    """Read one message; None if there is none until the end, or if it is too long."""
    data = bytearray()
    while len(data) < LENGTH.size or len(data) < LENGTH.size + LENGTH.unpack_from(data)[0]:
        left = end - time.monotonic()
        if left <= 0 or not select.select([pipe], [], [], left)[0]:
            return None
        more = os.read(pipe, 1 << 20)
        data += more
        if not more or len(data) > _MOST_BYTES:
            return None
    return bytes(data[LENGTH.size :])


def _end(process: int) -> None:
    """Kill a child and all processes that it has started."""
    with contextlib.suppress(OSError):
        os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(OSError):
        os.kill(process, signal.SIGKILL)
    with contextlib.suppress(ChildProcessError):
        os.waitpid(process, 0)
    while kernel.has_kernel() and (left := kernel.children()):
        for orphan in left:  # those that have left the group came to this process
            with contextlib.suppress(OSError):
                os.kill(orphan, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(orphan, 0)


def _remove(folder: Path) -> None:
    """Remove a folder, even if there are folders in it that nobody may enter."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.exists():
        for place, _, _ in os.walk(folder):
            for item in Path(place).iterdir():
                if item.is_dir() and not item.is_symlink():
                    item.chmod(0o700)
        shutil.rmtree(folder, ignore_errors=True)


def _receive(stream: IO[bytes], parent: int) -> bytes | None:
    """Return the next message; None if the stream was closed, or if the parent has ended."""
    while not select.select([stream], [], [], _WAIT)[0]:
        if os.getppid() != parent:  # another process may still hold the stream open
            return None
    head = _exactly(stream, LENGTH.size)
    return None if head is None else _exactly(stream, LENGTH.unpack(head)[0])


def _exactly(stream: IO[bytes], count: int) -> bytes | None:
    data = bytearray()
    while len(data) < count:
        more = stream.read(count - len(data))
        if not more:
            return None
        data += more
    return bytes(data)


def _send(stream: IO[bytes], value: Any) -> None:
    message = json.dumps(value).encode()
    stream.write(LENGTH.pack(len(message)) + message)
    stream.flush()
