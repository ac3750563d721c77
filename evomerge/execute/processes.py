"""The executor `processes`: each worker is a separate process on this machine.

On Linux all are forked from one server process that has imported the libraries, so that a worker is
ready, or replaced, in little time and shares their memory.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import active_children, get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any, Literal

from evomerge.config.evaluation import EvaluationConfig
from evomerge.config.executor import ExecutorKind, Workers
from evomerge.device import count_cores, count_devices
from evomerge.errors import ConfigError, SearchError, one_line
from evomerge.execute.devices import accelerator, check_accelerators
from evomerge.execute.pool import Host, LostWorkerError, Pool, Records, RemoteWorker
from evomerge.execute.protocol import Attempts, Job, MakesWorker

if TYPE_CHECKING:
    from evomerge.problem.problem import Problem
    from evomerge.run.logbook import Logbook

PRELOADED = (
    "torch", "transformers.generation.utils", "evomerge.execute.plan",
    "evomerge.merging.backend", "evomerge.merging.methods",
    "evomerge.merging.kernels.compiled",
)  # fmt: skip
"""What a worker imports. Imported once for all, it saves each worker four fifths of its start."""

END = 3.0
"""Seconds that a process has to end its own processes, until it is killed."""

_ALONE = "PYTHONSAFEPATH"
"""With this variable, a Python that is started does not look for modules where it stands: that of
`multiprocessing` would take a `socket.py` of the working folder for the library's."""


class Processes(ExecutorKind):
    """Runs candidates in processes of their own on this machine."""

    about = "in processes of their own"

    kind: Literal["processes"]
    """processes: in processes of their own"""

    def count_workers(self, evaluation: EvaluationConfig) -> Workers:
        """Return how many processes there are, and on which accelerators."""
        devices = self.devices(evaluation)
        places = sorted({"+".join(group) for group in devices if group})
        return Workers(
            text=f"{len(devices)} processes" + (f" on {', '.join(places)}" if places else ""),
            count=len(devices),
            on_a_machine=len(devices),
            on_an_accelerator=max(Counter(devices).values()),
            are_forked=sys.platform == "linux",
        )

    def check(self, evaluation: EvaluationConfig) -> None:
        """Raise a ConfigError if engines would have to share accelerators, or the CPU."""
        check_accelerators(evaluation)
        devices, size = self.devices(evaluation), evaluation.tensor_parallel
        if evaluation.engine.is_separate and len(devices) > (enough := len(set(devices))):
            one = "an accelerator" if size == 1 else f"{size} accelerators"
            raise ConfigError(
                f"`executor.workers` is {self.workers}, but each {evaluation.engine.title} "
                f"takes {one} of its own, which is enough for {enough}; lower it, or set "
                "`evaluation.backend` to 'hf'."
            )

    def devices(self, evaluation: EvaluationConfig) -> list[tuple[str, ...]]:
        """Return the accelerators of each process; none: as `evaluation.device` says.

        Processes take several accelerators in turn, each `evaluation.tensor_parallel` of them.
        Without one, `workers: auto` gives each as many cores as `evaluation.threads` says, or one.
        """
        size, device = evaluation.tensor_parallel, accelerator(evaluation)
        # With `device_map`, the model is divided over all accelerators.
        count = count_devices(device) if evaluation.device_map is None or size > 1 else 1
        groups = max(1, count // size)
        if self.workers == "auto":
            threads = 1 if evaluation.threads == "auto" else evaluation.threads
            workers = max(1, count_cores() // threads) if device == "cpu" else groups
        else:
            workers = self.workers
        if count == 1:
            return [()] * workers
        devices = [f"{device}:{number}" for number in range(count)]
        parts = [tuple(devices[group * size : (group + 1) * size]) for group in range(groups)]
        return [parts[number % groups] for number in range(workers)]

    def make(self, problem: Problem, logbook: Logbook) -> Pool:
        """Return the executor of a run."""
        from evomerge.evaluation.objectives import kinds_of
        from evomerge.execute.plan import plan_worker

        devices = self.devices(problem.config.evaluation)
        model_type = problem.checkpoints[problem.host].config.get("model_type")
        preload: tuple[str, ...] = (
            *PRELOADED,
            f"transformers.models.{model_type}.modeling_{model_type}",
        )
        preload += tuple(name for kind in kinds_of(problem.config) for name in kind.imports)
        plan = plan_worker(problem, logbook, cores=max(1, count_cores() // len(devices)))
        plan = replace(plan, neighbours=len(devices))
        workers = [
            ProcessWorker(replace(plan, devices=group), preload, "+".join(group))
            for group in devices
        ]
        return Pool(workers, Attempts(logbook.run.path), self.timeout)


class ProcessWorker(RemoteWorker):
    """A worker in a separate process; see `evomerge.execute.pool.RemoteWorker`.

    Args:
        plan: makes what runs a job, in the process.
        preload: modules that the server process imports; those of the first worker count.
    """

    def __init__(self, plan: MakesWorker, preload: Sequence[str] = (), place: str = "") -> None:
        self._plan, self._preload, self.place = plan, list(preload), place
        self._process: Any = None
        self._pipe: Any = None

    def start(self) -> None:
        """Start a new process and make the worker in it; an old process is ended."""
        self.close()
        # On a Mac, libraries of the system do not survive a fork.
        context: Any = get_context("spawn" if sys.platform == "darwin" else "forkserver")
        context.set_forkserver_preload(self._preload)
        self._pipe, theirs = context.Pipe()
        # No daemon: those may not start processes of their own, as vLLM does.
        before = os.environ.get(_ALONE)
        self._process = context.Process(target=_serve, args=(theirs, self._plan, before))
        os.environ[_ALONE] = "1"
        try:
            with theirs:
                self._process.start()
        finally:
            _put_back(before)

    def send(self, job: Job) -> None:
        """Begin a job."""
        with suppress(OSError):  # the process has ended, which is the answer
            self._pipe.send(job)

    def signs(self) -> Sequence[Any]:
        """Return the pipe, and what tells that the process has ended."""
        return () if self._process is None else (self._pipe, self._process.sentinel)

    def answer(self) -> tuple[Any, Records]:
        """Return the next answer; see `RemoteWorker`."""
        try:
            if not self._pipe.poll() and not self._process.is_alive():
                raise EOFError
            value, records = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            raise LostWorkerError(_how(self._process.exitcode)) from None
        if isinstance(value, BaseException):
            raise value
        return value, records

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        self._process.terminate()
        self._process.join(END)
        self._process.kill()
        self._process.join()
        self._pipe.close()
        self._process = None


def _how(code: int | None) -> str:
    if code is None or code >= 0:
        return f"with the exit status {code}"
    names = {item.value: item.name for item in signal.Signals}
    return f"by the signal {names.get(-code, -code)}"


def _put_back(before: str | None) -> None:
    os.environ.pop(_ALONE, None)
    if before is not None:
        os.environ[_ALONE] = before


# What follows runs in the worker's process.


def _serve(pipe: Connection, plan: MakesWorker, alone: str | None) -> None:
    """Make the worker, and answer jobs until the pipe is closed; `alone`: the user's `_ALONE`."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the search's, which ends its workers
    signal.signal(signal.SIGTERM, _end)
    _put_back(alone)  # a Python that an objective starts looks where it stands
    _end_with_parent()
    try:
        host = Host(plan)
        pipe.send(host.ready())
        while True:
            pipe.send(host.run(pipe.recv()))
    except (EOFError, BrokenPipeError):  # the search has ended
        return
    except BaseException as error:
        try:
            pipe.send((error, []))
        except Exception:  # it cannot be pickled
            pipe.send((SearchError(f"{type(error).__name__}: {one_line(error)}"), []))


def _end(*_: object) -> None:
    """End this process, and those that it has started."""
    for child in active_children():
        child.terminate()
    os._exit(1)


def _end_with_parent() -> None:
    """End this process when the one that started it ends, however it ends."""
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, name="end-with-parent", daemon=True).start()
