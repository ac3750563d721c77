"""A worker that is an actor of Ray, on this machine or on another one of a cluster.

Ray places each actor where its resources are free. An actor is never restarted by Ray, and its
calls are never repeated by Ray: which job runs again where is decided in `evomerge.execute.remote`,
so that lost attempts are counted.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Any

import ray
from ray.exceptions import ActorDiedError, RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from evomerge.compat.ray import is_machine_gone, not_importable, reason_of
from evomerge.errors import SearchError, one_line
from evomerge.execute.protocol import Job, RunJobs
from evomerge.execute.remote import Batch, LostMachineError, LostWorkerError
from evomerge.execute.worker_process import Outcomes, Reply, WorkerProcess, unpack

DECISION = 60.0
"""Largest number of seconds until Ray has decided whether an actor or a machine is lost."""


class Actor:
    """What an actor holds: the host of a worker, in the actor's process."""

    def __init__(self) -> None:
        self._host: WorkerProcess | None = None

    def start(self, make: Callable[[], RunJobs]) -> tuple[str, str]:
        """Make the worker. Returns the address of the machine and Ray's id of it."""
        self._host = WorkerProcess(make)
        machine = ray.get_runtime_context().get_node_id()
        return str(ray.util.get_node_ip_address()), str(machine)

    def call(self, function: Callable[[], Any]) -> Any:
        """Return the result of a function in this process."""
        return function()

    def run(self, jobs: tuple[Job, ...]) -> Reply:
        """Run jobs."""
        assert self._host is not None
        return self._host.run(jobs)


class RayWorker:
    """A worker in an actor of its own. Ray must be connected.

    Args:
        make: makes what runs the jobs, in the actor; it must be picklable.
        resources: what the actor takes of a machine, by name: `CPU`, `GPU` (a fraction below 1
            shares one), or a resource of one's own.

    Attributes:
        place: address of the machine; empty before the worker is ready.
    """

    def __init__(self, make: Callable[[], RunJobs], resources: Mapping[str, float]) -> None:
        self._make, self._resources, self.place = make, resources, ""
        self._actor: Any = None
        self._machine: str | None = None  # Ray's id of it

    def start(self) -> Future[None]:
        """Place a new actor and make the worker in it; an old actor is ended."""
        self.close()
        self._actor = actor = new_actor(self._resources)

        def take(found: tuple[str, str]) -> None:
            self.place, self._machine = found

        return _answer(actor, actor.start.remote(self._make), take)

    def run(self, jobs: Batch) -> Future[Outcomes]:
        """Run jobs; see `RemoteWorker`."""
        return _answer(self._actor, self._actor.run.remote(jobs), unpack, self._machine)

    def confirm(self) -> Future[None]:
        """Find out whether the machine of the worker is still there; see `RemoteWorker`."""
        machine, answer = self._machine, Future[None]()

        def ask() -> None:
            if machine is None or _is_there(machine):
                answer.set_result(None)
            else:
                answer.set_exception(LostMachineError("its machine is gone"))

        threading.Thread(target=ask, daemon=True).start()
        return answer

    def close(self) -> None:
        """End the actor."""
        if self._actor is not None:
            ray.kill(self._actor)
            self._actor, self._machine, self.place = None, None, ""


def new_actor(resources: Mapping[str, float], machine: str | None = None) -> Any:
    """Return a new actor; calls wait until Ray has placed it.

    Args:
        resources: what it takes of a machine, by name.
        machine: Ray's id of the machine; None: any.
    """
    own = dict(resources)
    cpus, gpus = own.pop("CPU", 0.0), own.pop("GPU", 0.0)
    options: dict[str, Any] = {"num_cpus": cpus, "num_gpus": gpus, "resources": own}
    if machine is not None:
        options["scheduling_strategy"] = NodeAffinitySchedulingStrategy(machine, soft=False)
    return ray.remote(Actor).options(**options, max_restarts=0, max_task_retries=0).remote()


def call(function: Callable[[], Any], resources: Mapping[str, float]) -> Any:
    """Return the result of a function that is called in an actor with these resources."""
    return _call([new_actor(resources)], function)[0]


def call_on(machines: Sequence[str], function: Callable[[], Any]) -> list[Any]:
    """Return the results of a picklable function that is called once on each machine.

    Args:
        machines: Ray's ids of the machines.
    """
    return _call([new_actor({}, machine) for machine in machines], function)


def _call(actors: Sequence[Any], function: Callable[[], Any]) -> list[Any]:
    try:
        answers = [_answer(item, item.call.remote(function), lambda got: got) for item in actors]
        return [answer.result() for answer in answers]
    except LostWorkerError as error:
        raise SearchError(
            f"A process of the cluster ended before the search began ({one_line(error)}); see to "
            "its machine, then go on with `evomerge resume`."
        ) from error
    finally:
        for actor in actors:
            ray.kill(actor)


def _answer(
    actor: Any, call: Any, unpack: Callable[[Any], Any], machine: str | None = None
) -> Future[Any]:
    """Return a future of the unpacked result of an actor's call, with this package's errors.

    Args:
        call: the object reference of the call.
        machine: Ray's id of the actor's machine; None: unknown.
    """
    answer: Future[Any] = Future()

    def finish(done: Future[Any]) -> None:
        try:
            answer.set_result(unpack(done.result()))
        except RayTaskError as error:
            answer.set_exception(error.cause or error)
        except RayError as error:
            # Ray may need time to find out, and its own thread must not wait for it.
            about = (actor, machine, error, answer)
            threading.Thread(target=_find_cause, args=about, daemon=True).start()
        except BaseException as error:
            answer.set_exception(error)

    call.future().add_done_callback(finish)
    return answer


def _find_cause(actor: Any, machine: str | None, error: RayError, answer: Future[Any]) -> None:
    """Wait until it is known why an actor does not answer, and set the error of a future."""
    end = time.monotonic() + DECISION
    while not isinstance(error, ActorDiedError) and time.monotonic() < end:
        time.sleep(0.5)
        try:
            ray.get(actor.call.remote(_nothing), timeout=5)
        except RayError as newer:
            error = newer
        except Exception as other:
            answer.set_exception(LostWorkerError(one_line(other)))
            return
        else:
            break
    if found := not_importable(error):
        answer.set_exception(found)
    elif is_machine_gone(error):
        answer.set_exception(LostMachineError("its machine is gone"))
    elif machine is not None and not _is_there(machine):
        # A machine that is shut down in order ends its actors before it leaves the cluster.
        answer.set_exception(LostMachineError("its machine was shut down"))
    else:
        answer.set_exception(LostWorkerError(reason_of(error)))


def _is_there(machine: str) -> bool:
    """Return whether a machine of the cluster runs a task, or is at least known to Ray.

    Ray lists a machine for some time after it has gone, but not for as long as `DECISION`. So a
    machine that is only too busy to run the task is there.
    """
    where = NodeAffinitySchedulingStrategy(machine, soft=False)
    task = ray.remote(_nothing).options(num_cpus=0, scheduling_strategy=where, max_retries=0)
    try:
        ray.get(task.remote(), timeout=DECISION)
    except RayError:  # that it took too long is one of them
        return any(node["NodeID"] == machine and node["Alive"] for node in ray.nodes())
    return True


def _nothing() -> None:
    """Do nothing."""
