"""A worker in another process, perhaps on another machine, as the remote executor sees it."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Protocol, TypeAlias

from evomerge.execute.protocol import Job
from evomerge.scores import Outcome

Batch: TypeAlias = tuple[Job, ...]
"""Jobs that one worker runs together, such as a part of a generation of paths."""


class LostWorkerError(Exception):
    """A worker ended before its jobs did; the message says how (`by the signal SIGKILL`)."""


class LostMachineError(LostWorkerError):
    """A worker ended because its machine is gone, so its jobs are not at fault."""


class RemoteWorker(Protocol):
    """A worker in another process, perhaps on another machine.

    The futures of both methods may raise `LostWorkerError`, or what the worker has raised. A worker
    that is lost or closed runs nothing more until it is started again.
    """

    @property
    def place(self) -> str:
        """Where it runs, for people: a device, or a machine. Empty: nothing to say."""
        ...

    def start(self) -> Future[None]:
        """Make the worker ready, in a new process; the old one is ended, if there is one."""
        ...

    def run(self, jobs: Batch) -> Future[list[tuple[Job, Outcome]]]:
        """Run jobs."""
        ...

    def confirm(self) -> Future[None]:
        """Find out whether the machine of the worker is still there, in the middle of jobs too.

        The future raises `LostMachineError` if it is not.
        """
        ...

    def close(self) -> None:
        """End the process, in the middle of jobs too."""
        ...
