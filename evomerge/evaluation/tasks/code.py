"""Tasks that run code which the model writes (`unsafe_code: true` in their YAML).

A process without the model, in bubblewrap where it is installed, loads such a task once. It scores
each document in a child of its own with limits on time and memory, by the task's own functions and
lm-eval's metrics. So an answer that hangs, crashes or fills the memory is one wrong document. The
limits stop accidents; a program that means harm is stopped by a container only.
"""

from __future__ import annotations

import gc
import itertools
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from evomerge.errors import SearchError, one_line
from evomerge.evaluation.inference.calls import SEED, calling
from evomerge.evaluation.tasks.loading import TaskLoader
from evomerge.evaluation.tasks.scoring import DocumentMetrics, Instance, TaskMetrics
from evomerge.run.atomic import TemporaryFolder

SECONDS, SECONDS_MORE = 30, 2  # of a document, and of each of its answers
_MEMORY = 2 << 30  # bytes of address space, beside what libraries have taken
_FILE_SIZE = 64 << 20
_TOGETHER = min(4, os.cpu_count() or 1)  # children at a time
_PATIENCE = 300.0  # seconds beside the limits, for imports and a busy machine
_KEPT = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
)
_SET_TO_1 = (
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "HF_ALLOW_CODE_EVAL"),
    *("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_EVALUATE_OFFLINE"),
)
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
                for instance, filtered in zip(requests, answers, strict=True):
                    instance.filtered_resps = filtered
                rows.append(row)
        return rows

    def _outcomes(self, origin: Origin, documents: Sequence[Sequence[Instance]]) -> list[Outcome]:
        connection = self._connection = self._connection or self._start()
        most = max(sum(len(item.resps) for item in requests) for requests in documents)
        seconds = SECONDS + SECONDS_MORE * most
        reply: list[Outcome] | str | None = None
        with suppress(OSError, EOFError):
            connection.send((self._include, origin, documents, seconds))
            if connection.poll(seconds + _PATIENCE):
                reply = json.loads(connection.recv_bytes())
        if isinstance(reply, str):
            raise SearchError(
                f"Task {origin[1]!r} cannot be loaded in the process that scores code ({reply}); "
                "correct its files, then resume."
            )
        if reply is not None:
            return reply
        self._close()
        self._connection = None
        if len(documents) > 1:  # one of them has ended the process
            return [self._outcomes(origin, [document])[0] for document in documents]
        return [None]

    def _start(self) -> Connection:
        (ours, theirs), folder = Pipe(), TemporaryFolder()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= dict.fromkeys(_SET_TO_1, "1") | {"PYTHONHASHSEED": "0"}
        environment |= dict.fromkeys(("HF_METRICS_CACHE", "TMPDIR"), str(folder.path))
        environment["PYTHONPATH"] = os.pathsep.join(
            str(Path(place).absolute()) for place in sys.path
        )
        confined = list[str]()
        if has_bubblewrap():  # it can write to this folder and to caches only
            import datasets

            caches = datasets.config.HF_DATASETS_CACHE, datasets.config.HF_MODULES_CACHE
            binds = (("--bind-try", str(at), str(at)) for at in (folder.path, *caches))
            confined = [*_ALONE, *itertools.chain.from_iterable(binds)]
        start = f"from evomerge.evaluation.tasks.code import main; main({theirs.fileno()})"
        with theirs:
            process = subprocess.Popen(
                [*confined, sys.executable, "-P", "-c", start],
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
    process.terminate()  # it kills its children
    with suppress(subprocess.TimeoutExpired):
        process.wait(5)
    process.kill()
    process.wait()
    folder.close()


def main(descriptor: int) -> None:
    """Serve a `CodeProcess`, as its other process, until it closes the connection."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    tasks: dict[Origin, Any] = {}
    with Connection(descriptor) as connection, suppress(EOFError, OSError):
        while True:
            include, origin, documents, seconds = connection.recv()
            reply: list[Outcome] | str
            try:
                with calling(SEED), ExitStack() as children:
                    if origin not in tasks:
                        loader = TaskLoader(include, allow_code=True)
                        tasks[origin] = loader.load(origin[0], "objectives")[0][origin[1]]
                        gc.freeze()  # so that a child copies less
                    begun = (_child(tasks[origin], item, seconds) for item in documents)
                    pairs = zip(map(children.enter_context, begun), documents, strict=True)
                    asked, deadline = list(pairs), time.monotonic() + seconds
                    reply = [_outcome(answer, len(item), deadline) for answer, item in asked]
            except Exception as error:
                reply = f"{type(error).__name__}: {one_line(error)}"
            connection.send_bytes(json.dumps(reply).encode())


@contextmanager
def _child(task: Any, requests: Sequence[Instance], seconds: int) -> Iterator[Connection]:
    """Begin to score a document in a forked process; yield what its outcome comes through.

    At the end, all processes of its group are killed.
    """
    reading, writing = Pipe(duplex=False)
    # Python's TemporaryDirectory follows links that the child has made, before 3.11.8.
    folder, process = tempfile.mkdtemp(), os.fork()
    if process == 0:
        try:
            _limit(folder, seconds, writing.fileno())
            (row,) = TaskMetrics(task)([requests])
            outcome = [row, [dict(instance.filtered_resps) for instance in requests]]
            writing.send_bytes(json.dumps(outcome, default=str).encode())
        finally:
            os._exit(0)
    with reading:
        writing.close()
        try:
            yield reading
        finally:
            for kill in (os.killpg, os.kill):  # it may have no group of its own yet
                with suppress(OSError):
                    kill(process, signal.SIGKILL)
            os.waitpid(process, 0)
            shutil.rmtree(folder, ignore_errors=True)


def _outcome(answer: Connection, count: int, deadline: float) -> Outcome:
    """Return what a child sends until the deadline, about so many requests."""
    with suppress(Exception):  # the program may have changed or sent anything
        if answer.poll(max(0.0, deadline - time.monotonic())):
            row, answers = json.loads(answer.recv_bytes(16 << 20))
            numbers = {key: float(value) for key, value in row.items()}
            return [numbers, [dict(answers[place]) for place in range(count)]]
    return None


def _limit(folder: str, seconds: int, kept: int) -> None:
    """Limit this process and all that it starts; one file stays open beside 0 to 2."""
    os.setsid()
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.closerange(3, kept)
    os.closerange(kept + 1, 1 << 16)
    limits = {resource.RLIMIT_CPU: seconds, resource.RLIMIT_FSIZE: _FILE_SIZE}
    with suppress(OSError):  # only Linux tells what is taken already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + _MEMORY
    for name, limit in {**limits, resource.RLIMIT_CORE: 0}.items():
        hard = resource.getrlimit(name)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (value, value))
