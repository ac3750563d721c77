"""Workers that are actors of Ray, on this machine or on other ones of a cluster.

Ray places each actor where its resources are free. It never restarts one or repeats a call: which
job runs again is decided in `evomerge.execute.pool`, so that lost attempts are counted.
"""

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from multiprocessing import Pipe
from typing import Any

import ray
from ray.exceptions import (
    ActorUnavailableError,
    GetTimeoutError,
    NodeDiedError,
    RayError,
    RayTaskError,
)

from evomerge.compat.ray import is_of_machine, not_importable, reason_of
from evomerge.execute.pool import Host, LostMachineError, LostWorkerError, Records, RemoteWorker
from evomerge.execute.protocol import Job, MakesWorker, Result

_UNTIL_KNOWN = 120.0
"""Seconds in which Ray finds out that a machine is lost; by default it takes half a minute."""


class Actor:
    """What an actor holds: the host of a worker, in the actor's process."""

    def start(self, plan: MakesWorker) -> tuple[str, tuple[None, Records]]:
        """Make the worker. Returns the address of the machine, and the worker's first answer."""
        self._place, self._host = str(ray.util.get_node_ip_address()), Host(plan)
        return self._place, self._host.ready()

    def run(self, job: Job) -> tuple[str, tuple[Result, Records]]:
        """Run a job. Returns the address of the machine, and the worker's answer."""
        return self._place, self._host.run(job)


class RayWorker(RemoteWorker):
    """A worker in an actor; see `evomerge.execute.pool.RemoteWorker`. Ray must be connected.

    Args:
        plan: makes what runs a job, in the actor.
        resources: what the actor takes of a machine, by name: `CPU`, `GPU` (a fraction below 1
            shares one), or a resource of one's own.
    """

    def __init__(self, plan: MakesWorker, resources: Mapping[str, float]) -> None:
        others = dict(resources)
        cpus, gpus = others.pop("CPU", 0.0), others.pop("GPU", 0.0)
        self._options = {"num_cpus": cpus, "num_gpus": gpus, "resources": others}
        self._plan = plan
        self._actor: Any = None
        self._answer: Future[Any] | None = None

    def start(self) -> None:
        """Place a new actor and make the worker in it; an old actor is ended."""
        self.close()
        new = ray.remote(Actor).options(**self._options, max_restarts=0, max_task_retries=0)
        self._actor = new.remote()  # calls wait until Ray has placed it
        self._expect(self._actor.start.remote(self._plan))

    def send(self, job: Job) -> None:
        """Begin a job."""
        self._expect(self._actor.run.remote(job))

    def _expect(self, call: Any) -> None:
        """Wait in a thread for the answer to a call, and give a sign when it is there."""
        self._answer, (self._sign, wake) = Future(), Pipe(duplex=False)
        self._answer.add_done_callback(lambda _: wake.close())
        arguments = self._actor, call, self._answer
        threading.Thread(target=_wait, args=arguments, daemon=True).start()

    def signs(self) -> Sequence[Any]:
        """Return what is ready when there is an answer."""
        return () if self._answer is None else (self._sign,)

    def answer(self) -> tuple[Any, Records]:
        """Return the next answer; see `RemoteWorker`."""
        assert self._answer is not None
        answer, self._answer = self._answer, None
        self.place, (value, records) = answer.result()
        return value, records

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor, self.place = None, ""


def _wait(actor: Any, call: Any, answer: Future[Any]) -> None:
    """Set what a call of an actor returns, or raises, as this package's errors."""
    try:
        answer.set_result(ray.get(call))
    except RayTaskError as error:
        answer.set_exception(error.cause or error)
    except RayError as error:
        answer.set_exception(not_importable(error) or _lost(actor, error))
    except BaseException as error:
        answer.set_exception(error)


def _lost(actor: Any, error: RayError) -> LostWorkerError:
    """Return how an actor was lost: with its machine, or alone.

    When the connection to an actor is closed, Ray does not know yet which of both it is.
    """
    if isinstance(error, ActorUnavailableError):
        try:
            ray.get(actor.__ray_ready__.remote(), timeout=_UNTIL_KNOWN)
        except GetTimeoutError:
            pass
        except RayError as known:
            error = known
    is_machine = isinstance(error, (ActorUnavailableError, NodeDiedError)) or is_of_machine(error)
    return (LostMachineError if is_machine else LostWorkerError)(reason_of(error))
