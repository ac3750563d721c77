"""Tasks that run code which the model writes (`unsafe_code: true` in their YAML).

A process without the model loads such a task once, through bubblewrap where it is installed. It
scores each document in a child of its own with limits on time and memory, by the task's own
functions and lm-eval's metrics. So an answer that hangs, crashes or fills the memory is one wrong
document. The limits stop accidents; a program that means harm is stopped by a container only.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from evomerge.errors import SearchError, one_line
from evomerge.evaluation.inference.quiet import quiet, seeded
from evomerge.evaluation.tasks.loading import load, task_manager
from evomerge.evaluation.tasks.scoring import DocumentMetrics, Instance, document_metrics
from evomerge.evaluation.tasks.templates import templates_in_sandbox
from evomerge.run.atomic import TemporaryFolder

SECONDS, SECONDS_MORE = 30, 2
"""Wall time of a document, and of each of its answers; also the CPU time of each process."""

MEMORY = 2 << 30
"""Bytes of address space that a child may take, beside what its libraries have taken."""

FILE_SIZE = 64 << 20
"""Largest size of a file in bytes that a child may write."""

_TOGETHER = min(4, os.cpu_count() or 1)  # children at a time
_MOST_BYTES = 16 << 20  # of a result
_PATIENCE = 300.0  # seconds beside the limits, for imports and a busy machine
_PASSED_ON = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
)
_SET_TO_1 = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "HF_ALLOW_CODE_EVAL"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"),
)
_ALONE = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all")
"""A command behind it runs without network and other processes, and changes no file."""

log = logging.getLogger(__name__)

Outcome: TypeAlias = list[Any] | str
"""What became of a document: `[metrics, filtered answers]`, or why there are none."""


class Origin(NamedTuple):
    """How another process loads a task: the task or group of lm-eval, and the task in it."""

    source: str
    leaf: str


class CodeProcess:
    """Scores answers of code tasks in another process, which starts when it is first needed.

    Args:
        include: folders with task YAML.
    """

    def __init__(self, include: Sequence[str]) -> None:
        self._include = [str(Path(folder).absolute()) for folder in include]
        self._close: Callable[[], Any] = lambda: None
        self._connection: Connection | None = None
        self._warned: set[Origin] = set()

    def metrics(
        self,
        origin: Origin,
        documents: Sequence[Sequence[Instance]],
        worst: DocumentMetrics | None = None,
    ) -> list[DocumentMetrics]:
        """Return the metrics of each document, all of them numbers; see `document_metrics`.

        Args:
            worst: the metrics of a document whose process gives no result; None: it has none.

        Raises:
            SearchError: the task cannot be loaded there.
        """
        outcomes: list[Outcome] = []
        for first in range(0, len(documents), _TOGETHER):
            outcomes += self._outcomes(origin, documents[first : first + _TOGETHER])
        rows: list[DocumentMetrics] = []
        for requests, outcome in zip(documents, outcomes, strict=True):
            row, answers = dict(worst or {}), list[Any]([{}] * len(requests))
            if not isinstance(outcome, str):
                row, answers = outcome
            elif worst is not None and origin not in self._warned:
                self._warned.add(origin)
                log.warning("Task %s: an answer counts as wrong, since %s", origin.leaf, outcome)
            for instance, filtered in zip(requests, answers, strict=True):
                instance.filtered_resps = filtered
            rows.append(row)
        return rows

    def _outcomes(self, origin: Origin, documents: Sequence[Sequence[Instance]]) -> list[Outcome]:
        connection = self._connection = self._connection or self._start()
        limits = [SECONDS + SECONDS_MORE * sum(len(i.resps) for i in item) for item in documents]
        reply: list[Outcome] | str | None = None
        with suppress(OSError, EOFError):
            connection.send((self._include, origin, documents, limits))
            if connection.poll(max(limits) + _PATIENCE):
                reply = json.loads(connection.recv_bytes())
        if isinstance(reply, str):
            raise SearchError(
                f"Task {origin.leaf!r} cannot be loaded in the process that scores code ({reply}); "
                "correct its files, then resume."
            )
        if reply is not None:
            return reply
        self._close()
        self._connection = None
        if len(documents) > 1:  # one of them has ended the process
            return [self._outcomes(origin, [document])[0] for document in documents]
        return ["it ended the process that watches it"]

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        folder = TemporaryFolder()
        own = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        own |= dict.fromkeys(_SET_TO_1, "1") | {"PYTHONHASHSEED": "0"}
        own |= {"HF_METRICS_CACHE": str(folder.path), "TMPDIR": str(folder.path)}
        own["PYTHONPATH"] = os.pathsep.join(str(Path(place).absolute()) for place in sys.path)
        start = f"from evomerge.evaluation.tasks.code import main; main({theirs.fileno()})"
        with theirs:
            process = subprocess.Popen(
                [*_confined(folder.path), sys.executable, "-P", "-c", start],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=folder.path,
                env=own,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the search
            )
        self._close = weakref.finalize(self, _close, process, ours, folder)
        return ours


def _close(
    process: subprocess.Popen[bytes], connection: Connection, folder: TemporaryFolder
) -> None:
    """End the process, and remove its folder."""
    connection.close()
    process.terminate()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.close()


@cache
def has_bubblewrap() -> bool:
    """Return whether bubblewrap is installed and may confine processes on this machine."""
    if shutil.which("bwrap") is None:
        return False
    return subprocess.run([*_ALONE, "true"], capture_output=True, check=False).returncode == 0


def _confined(folder: Path) -> list[str]:
    """Return what starts a command that can write to this folder and to caches only."""
    if not has_bubblewrap():
        return []
    import datasets

    caches = (datasets.config.HF_DATASETS_CACHE, datasets.config.HF_MODULES_CACHE)
    written = [word for place in (folder, *caches) for word in ("--bind-try", place, place)]
    return [*_ALONE, *map(str, written)]


# What follows runs in the other process.


def main(descriptor: int) -> None:
    """Serve the requests of a `CodeProcess` until it closes the connection of this descriptor."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    tasks: dict[Origin, Any] = {}
    with Connection(descriptor) as connection, suppress(EOFError, OSError):
        while True:
            include, origin, documents, limits = connection.recv()
            reply: list[Outcome] | str
            try:
                with quiet(bars=True), seeded(), templates_in_sandbox(), ExitStack() as children:
                    if origin not in tasks:
                        manager = task_manager(include, [origin.source], "objectives")
                        loaded, _ = load(manager, origin.source, "objectives")
                        tasks[origin] = loaded[origin.leaf]
                        gc.freeze()  # so that a child copies less
                    task, about = tasks[origin], zip(documents, limits, strict=True)
                    begun = [children.enter_context(_child(task, *item)) for item in about]
                    reply = [outcome() for outcome in begun]
            except Exception as error:
                reply = f"{type(error).__name__}: {one_line(error)}"
            connection.send_bytes(json.dumps(reply).encode())


@contextmanager
def _child(
    task: Any, requests: Sequence[Instance], seconds: int
) -> Iterator[Callable[[], Outcome]]:
    """Score a document in a forked process, in a folder of its own, within some seconds.

    Yields:
        what waits for the outcome. At the end, all processes of the group are killed.
    """
    reading, writing = Pipe(duplex=False)
    # Python's TemporaryDirectory follows links that the child has made, before 3.11.8.
    folder, deadline = tempfile.mkdtemp(), time.monotonic() + seconds

    def outcome() -> Outcome:
        if not reading.poll(max(0.0, deadline - time.monotonic())):
            return "it took long"
        with suppress(Exception):  # the answer may have changed or sent anything
            found = json.loads(reading.recv_bytes(_MOST_BYTES))
            if isinstance(found, str):
                return found
            numbers = {key: float(value) for key, value in found[0].items()}
            return [numbers, [dict(found[1][place]) for place in range(len(requests))]]
        return "it ended its process"

    with reading:
        process = os.fork()
        if process == 0:
            try:
                os.setsid()
                _limit(folder, seconds, writing.fileno())
                writing.send_bytes(_scored(task, requests).encode())
            finally:
                os._exit(0)
        try:
            writing.close()
            yield outcome
        finally:
            for kill in (os.killpg, os.kill):  # it may have no group of its own yet
                with suppress(OSError):
                    kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            shutil.rmtree(folder, ignore_errors=True)


def _scored(task: Any, requests: Sequence[Instance]) -> str:
    """Return the outcome of a document as JSON."""
    try:
        (row,) = document_metrics(task, [requests])
        numbers = {key: float(value) for key, value in row.items()}
        answers = [instance.filtered_resps for instance in requests]
        return json.dumps([numbers, answers], default=str)
    except BaseException as error:
        return json.dumps(f"{type(error).__name__}: {one_line(error)}"[:1000])


def _limit(folder: str, seconds: int, kept: int) -> None:
    """Limit this process and all that it starts: CPU time, memory, files, working folder.

    Of its file descriptors only one stays open, beside 0 to 2, which lead nowhere.
    """
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 16)
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: FILE_SIZE}
    with suppress(OSError):  # only Linux tells what is taken already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + MEMORY
    for name, limit in {**limits, resource.RLIMIT_CORE: 0}.items():
        hard = resource.getrlimit(name)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (value, value))
