"""Tasks whose functions run text as code: what the model writes, or what documents have.

A process without the model, in bubblewrap where it is installed, loads such a task once. It scores
each document in a child of its own with limits (`confined.py`), by the task's own functions and
lm-eval's metrics, and aggregates in a child, too. So an answer that hangs, crashes or fills the
memory is one wrong document. The limits stop accidents; a program that means harm is stopped by a
container only.
"""

import json
import math
import os
import re
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
import weakref
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from evomerge.compat.lm_eval import filters_of
from evomerge.device import count_cores
from evomerge.errors import CandidateError, SearchError, one_line
from evomerge.evaluation.lm_eval.confined import adopt_orphans, end_children, run_watched
from evomerge.evaluation.lm_eval.loading import TaskLoader
from evomerge.evaluation.lm_eval.metrics import Instance, document_metrics, summarized
from evomerge.evaluation.tasks.objective import DocumentMetrics, Summary
from evomerge.run.atomic import TemporaryFolder
from evomerge.trust.calls import SEED, calling
from evomerge.trust.code import Permissions

SECONDS, SECONDS_MORE = 30, 2  # of a document, and of each of its answers
_TOGETHER = min(4, count_cores())  # children at a time
_PATIENCE = 300.0  # seconds besides the limits, for imports and a busy machine
_GRACE = 5.0  # seconds for a process to end what it has started
_IDLE = 2.0  # seconds between looks at whether the search still runs
_KEPT = (
    *("PATH", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "HOME", "XDG_CACHE_HOME", "HF_HOME"),
    *("HF_HUB_CACHE", "HF_DATASETS_CACHE", "HF_MODULES_CACHE"),
)
_SET_TO_1 = ("OMP_NUM_THREADS", "HF_ALLOW_CODE_EVAL", "HF_HUB_OFFLINE", "HF_EVALUATE_OFFLINE")
_ALONE = ("bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--unshare-all")
_SHARE = re.compile(
    r"acc(_norm)?|exact_match|math_verify|pass(@|_at_)(\d+|k)|(\w+_)?(accuracy|rate)"
)
"""Names of metrics that lie between 0 and 1."""

Outcome: TypeAlias = list[Any] | None
"""The metrics of a document and its filtered answers, or a summary; None: it gave none."""

Origin: TypeAlias = tuple[str, str]
"""How another process loads a task: the task or group of lm-eval, and the task in it."""


@dataclass(frozen=True)
class Rows:
    """The metrics of all documents of a task of a kind, to be aggregated."""

    kind: str
    rows: Sequence[DocumentMetrics]


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
        """Return the metrics of each document; `worst` where it gives none.

        A metric that is None in `worst` may have other values than numbers, for its aggregation.

        Raises:
            SearchError: the task cannot be loaded there.
        """
        rows = []
        for first in range(0, len(documents), _TOGETHER):
            group = documents[first : first + _TOGETHER]
            most = max(sum(len(item.resps) for item in requests) for requests in group)
            for requests, outcome in zip(group, self._outcomes(origin, group, most), strict=True):
                row, answers = outcome or (dict(worst), [{}] * len(requests))
                parts = (key for key in row if worst.get(key, 0.0) is None)
                numbers = {key: row[key] for key in row.keys() - {*parts}}
                row = row if all(map(_is_possible, numbers, numbers.values())) else dict(worst)
                for instance, filtered in zip(requests, answers, strict=False):
                    instance.filtered_resps = dict(filtered)
                rows.append(row)
        return rows

    def summary(self, origin: Origin, kind: str, rows: Sequence[DocumentMetrics]) -> Summary:
        """Return what `summarized` does of a task of a kind, computed there.

        Raises:
            CandidateError: the metrics cannot be aggregated.
            SearchError: the task cannot be loaded there.
        """
        (outcome,) = self._outcomes(origin, [Rows(kind, rows)], len(rows))
        with suppress(Exception):  # a program may have written anything
            numbers, scores = outcome or ({}, {})
            scores = {key: float(value) for key, value in scores.items()}
            if scores and all(map(_is_possible, scores, scores.values())):
                return {key: tuple(map(float, row)) for key, row in numbers.items()}, scores
        raise CandidateError(
            f"The metrics of task {origin[1]!r} cannot be aggregated within the limits of the "
            "process that scores code; see how the model answers."
        )

    def _outcomes(
        self, origin: Origin, work: Sequence[Sequence[Instance] | Rows], answers: int
    ) -> list[Outcome]:
        connection = self._connection = self._connection or self._start()
        seconds = SECONDS + SECONDS_MORE * answers
        with suppress(OSError, EOFError):
            connection.send((self._include, origin, work, seconds))
            if connection.poll(seconds + _PATIENCE):
                reply: list[Outcome] | str = json.loads(connection.recv_bytes())
                if isinstance(reply, list):
                    return reply
                raise SearchError(
                    f"task {origin[1]!r} cannot be loaded in the process that scores code "
                    f"({reply}); correct its files."
                )
        self._close()
        self._connection = None
        if len(work) == 1:
            return [None]
        # One of them has ended the process.
        return [self._outcomes(origin, [one], answers)[0] for one in work]

    def _start(self) -> Connection:
        (ours, theirs), folder = Pipe(), TemporaryFolder()
        environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
        environment |= dict.fromkeys(_SET_TO_1, "1") | {"PYTHONHASHSEED": "0"}
        environment |= dict.fromkeys(("HF_METRICS_CACHE", "TMPDIR"), str(folder.path))
        environment["PYTHONPATH"] = os.pathsep.join(map(os.path.abspath, sys.path))
        start = f"from evomerge.evaluation.lm_eval.code import main; main({theirs.fileno()})"
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
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,  # Ctrl-C is for the search
            )
        self._close = weakref.finalize(self, _close, process, ours, folder)
        return ours


def _close(process: subprocess.Popen[bytes], ours: Connection, folder: TemporaryFolder) -> None:
    with suppress(OSError):
        ours.send(None)
    ours.close()
    try:  # it ends what it has started
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    folder.close()


def _is_possible(key: str, value: Any) -> bool:
    """Return whether a metric may have this value; programs can set their own score."""
    if not isinstance(value, (float, int)):
        return False
    is_share = _SHARE.fullmatch(key.split(",")[0])
    return 0 <= value <= 1 if is_share else math.isfinite(value)


def main(descriptor: int) -> None:
    """Serve a `CodeProcess`, as its other process, until that ends or asks for no more."""
    search, tasks = os.getppid(), dict[Origin, Any]()
    adopt_orphans()
    with Connection(descriptor) as connection, suppress(EOFError, OSError):
        while True:
            while not connection.poll(_IDLE):
                _check_parent(search)
            include, origin, work, seconds = connection.recv()
            reply: list[Outcome] | str
            try:
                with calling(SEED):
                    if origin not in tasks:
                        loader = TaskLoader(include, allowed=Permissions(True, True))
                        tasks[origin] = loader.load(origin[0], "objectives")[0][origin[1]]
                    children = [_Child(tasks[origin], one, seconds) for one in work]
                    _wait(children, time.monotonic() + seconds + _GRACE, connection, search)
                    reply = [child.outcome() for child in children]
            except EOFError:
                break
            except Exception as error:
                reply = f"{type(error).__name__}: {one_line(error)}"
            connection.send_bytes(json.dumps(reply).encode())
    end_children()
    shutil.rmtree(tempfile.gettempdir(), ignore_errors=True)  # the search may have been killed
    os._exit(0)


def _check_parent(search: int) -> None:
    """Raise an EOFError if the process that started this one has ended.

    Its end of the connection may still be open in processes that it has forked.
    """
    if os.getppid() != search:
        raise EOFError


def _wait(
    children: Sequence["_Child"], deadline: float, connection: Connection, search: int
) -> None:
    """Wait until all children end, at the deadline by force; EOFError: the search has ended."""
    running = {child.watcher for child in children}
    while running and time.monotonic() < deadline:
        running = {watcher for watcher in running if os.waitpid(watcher, os.WNOHANG)[0] == 0}
        if connection.poll():
            raise EOFError
        _check_parent(search)
        time.sleep(0.005 if running else 0)
    end_children()


class _Child:
    """A document that is being scored, or rows that are being aggregated, in a process of its own.

    The process has the file for its outcome by a descriptor only. What it writes counts if it
    begins with a token that is new for each document, so a program does not set its own score by
    writing into all files; one that looks into the memory of its process can.
    """

    def __init__(self, task: Any, work: Sequence[Instance] | Rows, seconds: int) -> None:
        self._folder = Path(tempfile.mkdtemp())
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - a child writes, `outcome` closes it
        self._token = secrets.token_bytes(16)

        def score() -> None:
            outcome: Any
            if isinstance(work, Rows):
                outcome = summarized(task, work.kind, work.rows)
            else:
                outcome = document_metrics(task, filters_of(task), [work])
                outcome += [[dict(instance.filtered_resps) for instance in work]]
            self._file.seek(0)
            self._file.truncate()
            self._file.write(self._token + json.dumps(outcome, default=_plain).encode())
            self._file.flush()

        self.watcher = run_watched(score, self._folder, seconds, self._file.fileno())

    def outcome(self) -> Outcome:
        """Return what the process has written, and remove its folder."""
        outcome = None
        with self._file, suppress(Exception):  # the program may have changed or written anything
            self._file.seek(0)
            text = self._file.read()
            if text.startswith(self._token):
                first, second = json.loads(text[len(self._token) :])
                outcome = [{**first}, second]
        shutil.rmtree(self._folder, ignore_errors=True)
        return outcome


def _plain(value: Any) -> Any:
    """Return a number of numpy as one of Python, anything else as text."""
    return value.item() if hasattr(value, "item") else str(value)
