"""Tasks that run code which the model writes (`unsafe_code: true` in their YAML).

A process without the model loads such a task once, through bubblewrap where it is installed. It
scores each document in a child of its own with limits on time and memory, by the task's own
functions and lm-eval's metrics. So an answer that hangs, crashes or fills the memory is one wrong
document. The limits stop accidents; a program that means harm is stopped by a container only.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
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
from evomerge.trust.consent import allowed_digests

SECONDS, SECONDS_MORE = 30, 2
"""Wall time of a document, and of each of its answers; also the CPU time of each process."""

MEMORY = 2 << 30
"""Bytes of address space that a child may take, beside what its libraries have taken."""

FILE_SIZE = 64 << 20
"""Largest size of a file in bytes that a child may write."""

_MOST_CHILDREN = 4  # that run at a time
_MOST_BYTES = 16 << 20  # of a result
_PATIENCE = 300.0  # seconds beside the limits, for imports and a busy machine
_PASSED_ON = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "XDG_CACHE_HOME"),
    *("HF_HOME", "HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
)
_ALONE = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all")
"""A command behind it runs without network and other processes, and changes no file."""

log = logging.getLogger(__name__)

Outcome: TypeAlias = dict[str, Any]
"""What became of a document: `{"value": [metrics, filtered answers]}` or `{"failure": reason}`."""


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
        rows = []
        for requests, outcome in zip(documents, self._outcomes(origin, documents), strict=True):
            row, answers = outcome.get("value") or (dict(worst or {}), [{}] * len(requests))
            if "failure" in outcome and worst is not None and origin not in self._warned:
                self._warned.add(origin)
                reason = outcome["failure"]
                log.warning("Task %s: an answer counts as wrong, since %s", origin.leaf, reason)
            for instance, filtered in zip(requests, answers, strict=True):
                instance.filtered_resps = filtered
            rows.append(row)
        return rows

    def _outcomes(
        self, origin: Origin, documents: Sequence[Sequence[Instance]]
    ) -> Sequence[Outcome]:
        reply = self._ask(origin, documents)
        if reply is None and len(documents) > 1:  # one of them has ended the process
            return [self._outcomes(origin, [document])[0] for document in documents]
        if reply is None:
            return [{"failure": "it ended the process that watches it"}]
        if isinstance(reply, str):
            raise SearchError(
                f"Task {origin.leaf!r} cannot be loaded in the process that scores code ({reply}); "
                "correct its files, then resume."
            )
        return reply

    def _ask(
        self, origin: Origin, documents: Sequence[Sequence[Instance]]
    ) -> list[Outcome] | str | None:
        """Return the reply of the process; None if it is lost."""
        connection = self._connection = self._connection or self._start()
        limits = [_seconds(requests) for requests in documents]
        with contextlib.suppress(OSError, EOFError):
            request = (allowed_digests(), self._include, origin, documents, limits)
            connection.send_bytes(pickle.dumps(request))
            if connection.poll(sum(limits) + _PATIENCE):
                reply: list[Outcome] | str = json.loads(connection.recv_bytes())
                return reply
        self._close()
        self._connection = None
        return None

    def _start(self) -> Connection:
        ours, theirs = Pipe()
        folder = TemporaryFolder()
        own = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
        own |= {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")}
        own |= {f"HF_{name}_OFFLINE": "1" for name in ("HUB", "DATASETS", "EVALUATE")}
        own |= {"HF_METRICS_CACHE": str(folder.path), "TMPDIR": str(folder.path)}
        own |= {"PYTHONHASHSEED": "0", "HF_ALLOW_CODE_EVAL": "1"}
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


def _seconds(requests: Sequence[Instance]) -> int:
    return SECONDS + SECONDS_MORE * sum(len(item.resps) for item in requests)


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
    with Connection(descriptor) as connection, contextlib.suppress(EOFError, OSError):
        while True:
            digests, include, origin, documents, limits = pickle.loads(connection.recv_bytes())
            reply: list[Outcome] | str
            try:
                with quiet(bars=True), seeded(), templates_in_sandbox():
                    if origin not in tasks:
                        allowed_digests(digests)
                        manager = task_manager(include, [origin.source], "objectives")
                        loaded, _ = load(manager, origin.source, "objectives", include)
                        tasks[origin] = loaded[origin.leaf]
                        gc.freeze()  # so that a child copies less
                    reply = _run(tasks[origin], documents, limits)
            except Exception as error:
                reply = f"{type(error).__name__}: {one_line(error)}"
            connection.send_bytes(json.dumps(reply).encode())


def _run(
    task: Any, documents: Sequence[Sequence[Instance]], limits: Sequence[int]
) -> list[Outcome]:
    """Score each document in a child of its own, a few children at a time."""
    outcomes: list[Outcome] = []
    width = min(_MOST_CHILDREN, os.cpu_count() or 1)
    for first in range(0, len(documents), width):
        children: list[_Child] = []
        try:
            for place in range(first, min(first + width, len(documents))):
                children.append(_Child(task, documents[place], limits[place]))
            outcomes += [child.outcome() for child in children]
        finally:
            for child in children:
                child.end()
    return outcomes


class _Child:
    """A forked process that scores a document, in a folder of its own, within some seconds."""

    def __init__(self, task: Any, requests: Sequence[Instance], seconds: int) -> None:
        self._folder, self._deadline = tempfile.mkdtemp(), time.monotonic() + seconds
        self._reading, writing = Pipe(duplex=False)
        self._process = os.fork()
        if self._process == 0:
            try:
                os.setsid()
                _limit(self._folder, seconds, writing.fileno())
                try:
                    text = _scored(task, requests)
                except BaseException as error:
                    reason = f"{type(error).__name__}: {one_line(error)}"[:1000]
                    text = json.dumps({"failure": reason})
                writing.send_bytes(text.encode())
            finally:
                os._exit(0)
        writing.close()

    def outcome(self) -> Outcome:
        """Wait for what the child sends, and return it; it is data only, whatever sent it."""
        if not self._reading.poll(max(0.0, self._deadline - time.monotonic())):
            return {"failure": "it took long"}
        with contextlib.suppress(EOFError, OSError, ValueError):
            outcome = json.loads(self._reading.recv_bytes(_MOST_BYTES))
            if isinstance(outcome, dict) and outcome.keys() <= {"value", "failure"}:
                return outcome
        return {"failure": "it ended its process"}

    def end(self) -> None:
        """Kill the child with all processes of its group, and remove its folder."""
        self._reading.close()
        for kill in (os.killpg, os.kill):  # it may have no group of its own yet
            with contextlib.suppress(OSError):
                kill(self._process, signal.SIGKILL)
        os.waitpid(self._process, 0)
        shutil.rmtree(self._folder, ignore_errors=True)


def _scored(task: Any, requests: Sequence[Instance]) -> str:
    """Return the metrics of a document and the filtered answers of its requests, as JSON."""
    (row,) = document_metrics(task, [requests])
    numbers = {key: float(value) for key, value in row.items()}
    answers = [instance.filtered_resps for instance in requests]
    return json.dumps({"value": [numbers, answers]}, default=str)


def _limit(folder: str, seconds: int, kept: int) -> None:
    """Limit this process and all that it starts: CPU time, memory, files, working folder.

    Of its file descriptors only one stays open, beside 0 to 2, which lead nowhere.
    """
    os.chdir(folder)
    os.environ["TMPDIR"] = tempfile.tempdir = folder
    os.closerange(3, kept)
    os.closerange(kept + 1, min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1 << 16))
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_FSIZE: FILE_SIZE,
        resource.RLIMIT_CORE: 0,
    }
    with contextlib.suppress(OSError):  # only Linux tells what is taken already
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limits[resource.RLIMIT_AS] = pages * resource.getpagesize() + MEMORY
    for name, limit in limits.items():
        hard = resource.getrlimit(name)[1]
        value = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(name, (value, value))
