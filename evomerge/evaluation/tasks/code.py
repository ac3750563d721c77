"""Tasks that run code which the model writes (`unsafe_code: true` in their YAML).

A process without the model, in bubblewrap where it is installed, loads such a task once. It scores
each document in a child of its own with limits on time and memory, by the task's own functions and
lm-eval's metrics. So an answer that hangs, crashes or fills the memory is one wrong document. The
limits stop accidents; a program that means harm is stopped by a container only.
"""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

import psutil

from evomerge.compat.lm_eval import filters_of
from evomerge.errors import SearchError, one_line
from evomerge.evaluation.inference.calls import SEED, calling
from evomerge.evaluation.tasks.loading import TaskLoader
from evomerge.evaluation.tasks.scoring import DocumentMetrics, Instance, document_metrics
from evomerge.run.atomic import TemporaryFolder

SECONDS, SECONDS_MORE = 30, 2  # of a document, and of each of its answers
_MEMORY = 2 << 30  # bytes of address space, beside what libraries have taken
_FILE_SIZE = 64 << 20
_OUTCOME = ".outcome"  # a file in the folder of a child
_TOGETHER = min(4, os.cpu_count() or 1)  # children at a time
_PATIENCE = 300.0  # seconds beside the limits, for imports and a busy machine
_KEPT = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "XDG_CACHE_HOME", "HF_HOME"),
    *("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
)
_SET_TO_1 = ("OMP_NUM_THREADS", "HF_ALLOW_CODE_EVAL", "HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")
_ALONE = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all")

Outcome: TypeAlias = list[Any] | None
"""The metrics of a document and its filtered answers; None: it gave none."""

Origin: TypeAlias = tuple[str, str]
"""How another process loads a task: the task or group of lm-eval, and the task in it."""


@cache
def has_bubblewrap() -> bool:
    """Return whether bubblewrap is installed and may confine processes on this machine."""
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*_ALONE, "true"], capture_output=True, check=False).returncode == 0


class CodeProcess:
    """Scores answers of code tasks in another process, which starts when it is first needed."""

    def __init__(self, include: Sequence[str]) -> None:
        self._include = [str(Path(folder).absolute()) for folder in include]
        self._connection: Connection | None = None
        self._close: Callable[[], Any] = lambda: None

    def metrics(
        self, origin: Origin, documents: Sequence[Sequence[Instance]], worst: DocumentMetrics
    ) -> list[DocumentMetrics]:
        """Return the metrics of each document, all of them numbers; `worst` where it gives none.

        Raises:
            SearchError: the task cannot be loaded there.
        """
        rows = []
        for first in range(0, len(documents), _TOGETHER):
            group = documents[first : first + _TOGETHER]
            for requests, outcome in zip(group, self._outcomes(origin, group), strict=True):
                row, answers = outcome or (dict(worst), [{}] * len(requests))
                for instance, filtered in zip(requests, answers, strict=False):
                    instance.filtered_resps = filtered
                rows.append(row)
        return rows

    def _outcomes(self, origin: Origin, documents: Sequence[Sequence[Instance]]) -> list[Outcome]:
        connection = self._connection = self._connection or self._start()
        most = max(sum(len(item.resps) for item in requests) for requests in documents)
        seconds = SECONDS + SECONDS_MORE * most
        with suppress(OSError, EOFError):
            connection.send((self._include, origin, documents, seconds))
            if connection.poll(seconds + _PATIENCE):
                reply: list[Outcome] | str = json.loads(connection.recv_bytes())
                if isinstance(reply, list):
                    return reply
                raise SearchError(
                    f"Task {origin[1]!r} cannot be loaded in the process that scores code "
                    f"({reply}); correct its files, then resume."
                )
        self._close()
        self._connection = None
        if len(documents) == 1:
            return [None]
        # One of them has ended the process.
        return [self._outcomes(origin, [document])[0] for document in documents]

    def _start(self) -> Connection:
        (ours, theirs), folder = Pipe(), TemporaryFolder()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= dict.fromkeys(_SET_TO_1, "1") | {"PYTHONHASHSEED": "0"}
        environment |= dict.fromkeys(("HF_METRICS_CACHE", "TMPDIR"), str(folder.path))
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        start = f"from evomerge.evaluation.tasks.code import main; main({theirs.fileno()})"
        command = [sys.executable, "-P", "-c", start]
        if has_bubblewrap():  # it can write to this folder and to caches only
            from datasets import config

            writable = folder.path, config.HF_DATASETS_CACHE, config.HF_MODULES_CACHE
            binds = [word for at in writable for word in ("--bind-try", str(at), str(at))]
            command = [*_ALONE, *binds, *command]
        with theirs:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder.path,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the search
            )
        self._close = weakref.finalize(self, _close, process, ours, folder)
        return ours


def _close(process: subprocess.Popen[bytes], ours: Connection, folder: TemporaryFolder) -> None:
    ours.close()
    process.kill()
    process.wait()
    folder.close()


def main(descriptor: int) -> None:
    """Serve a `CodeProcess`, as its other process, until it closes the connection."""
    tasks: dict[Origin, Any] = {}
    with Connection(descriptor) as connection, suppress(EOFError, OSError):
        while True:
            include, origin, documents, seconds = connection.recv()
            reply: list[Outcome] | str
            try:
                with calling(SEED):
                    if origin not in tasks:
                        loader = TaskLoader(include, allow_code=True)
                        tasks[origin] = loader.load(origin[0], "objectives")[0][origin[1]]
                    children = [_begin(tasks[origin], item, seconds) for item in documents]
                    deadline = time.monotonic() + seconds + 1
                    reply = [_end(*child, deadline) for child in children]
            except Exception as error:
                reply = f"{type(error).__name__}: {one_line(error)}"
            connection.send_bytes(json.dumps(reply).encode())


def _begin(task: Any, requests: Sequence[Instance], seconds: int) -> tuple[int, Path]:
    """Begin to score a document in a forked process; return its id and the folder it works in."""
    folder = Path(tempfile.mkdtemp())
    if process := os.fork():
        return process, folder
    try:
        _limit(folder, seconds)
        (row,) = document_metrics(task, filters_of(task), [requests])
        outcome = [row, [dict(instance.filtered_resps) for instance in requests]]
        (folder / _OUTCOME).write_text(json.dumps(outcome, default=str))
    finally:
        os._exit(0)


def _end(process: int, folder: Path, deadline: float) -> Outcome:
    """Wait for a child, kill it and what it has started, and return what it has written."""
    file, is_over = folder / _OUTCOME, False
    while not is_over and time.monotonic() < deadline:  # it may have stopped its own alarm
        is_over = os.waitpid(process, os.WNOHANG)[0] == process
        time.sleep(0 if is_over else 0.005)
    with suppress(OSError):
        os.killpg(process, signal.SIGKILL)
    if not is_over:
        os.kill(process, signal.SIGKILL)  # it may have no group of its own yet
        os.waitpid(process, 0)
    outcome = None
    with suppress(Exception):  # the program may have changed or written anything
        row, answers = json.loads(file.read_bytes() if file.is_file() else b"")
        outcome = [{key: float(value) for key, value in row.items()}, [*map(dict, answers)]]
    shutil.rmtree(folder, ignore_errors=True)
    return outcome


def _limit(folder: Path, seconds: int) -> None:
    """Limit this process and all that it starts."""
    os.setsid()
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    signal.alarm(seconds)
    limits = {
        resource.RLIMIT_AS: psutil.Process().memory_info().vms + _MEMORY,
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: _FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    os.closerange(3, 1 << 16)
    for name, limit in limits.items():
        with suppress(ValueError, OSError):  # a lower limit holds already
            resource.setrlimit(name, (limit, limit))
