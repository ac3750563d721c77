"""A search on a Ray cluster takes the course of an inline one, whatever is lost on the way."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import executor_laws
import psutil
import pytest
import ray
from executor_laws import Pretend, job_of
from ray._private.node import Node
from ray.cluster_utils import Cluster
from search_run import ended, events_of, evomerge, searched, start, write_judged, write_search

from evomerge.config.record import Record
from evomerge.errors import SearchError
from evomerge.execute.actors import RayWorker
from evomerge.execute.plan import WorkerPlan
from evomerge.execute.pool import Pool
from evomerge.execute.protocol import Attempts, Job, Result, RunJob
from evomerge.execute.ray import ActorPlan
from evomerge.scores import Outcome

pytestmark = pytest.mark.thorough

ray.cloudpickle.register_pickle_by_value(executor_laws)  # actors do not find tests/shared

SOURCE = '''
import os
import time

def judge(model, tokenizer, documents):
    """Mean size of the first weights; waits as long as there is a file `hold`.

    It does not where a worker tries it with one document before the search.
    """
    while len(documents) > 1 and os.path.exists({hold!r}):
        open(f"{hold}.{{os.getpid()}}", "w").close()
        time.sleep(0.02)
    return [float(next(model.parameters()).detach().abs().mean())] * len(documents)

judge.documents = 12
'''


class SlowClock:
    """The module `time`, with a clock that is ten times as slow."""

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def monotonic(self) -> float:
        return time.monotonic() / 10


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster of two machines with a core each, both of them on this one."""
    with pytest.MonkeyPatch.context() as patch:
        # Ray gives a machine 30 seconds to start, and busy ones take longer.
        patch.setattr(ray._private.node, "time", SlowClock())
        # Its workers have the lowest priority otherwise, so beside other tests they take minutes.
        patch.setenv("RAY_worker_niceness", "0")
        head = {"num_cpus": 1, "include_dashboard": False}
        found = Cluster(initialize_head=True, head_node_args=head)
        found.add_node(num_cpus=1)
        yield found
        ray.shutdown()
        found.shutdown()


@dataclass(frozen=True)
class HangsOnce:
    """Runs jobs, and hangs in the first one, with whose begin there is the file `note`."""

    note: Path

    def make(self) -> RunJob:
        return self._run

    def _run(self, job: Job) -> Outcome:
        if not self.note.exists():
            self.note.touch()
            time.sleep(600)
        return Pretend().outcome(job)


@pytest.mark.long
def test_a_job_is_run_again_on_another_machine(cluster: Cluster, tmp_path: Path) -> None:
    ray.init(cluster.address, log_to_driver=False, ignore_reinit_error=True)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    machines = [cluster.add_node(num_cpus=1, resources={"own": 1})]
    executor = Pool([RayWorker(HangsOnce(tmp_path / "note"), {"own": 1})], Attempts(tmp_path))
    found: list[tuple[Job, Result]] = []
    waiting = threading.Thread(target=lambda: found.extend(executor.run([job_of(0)])))
    waiting.start()
    wait_for((tmp_path / "note").exists, waiting.is_alive)
    cluster.remove_node(machines.pop(), allow_graceful=False)
    machines.append(cluster.add_node(num_cpus=1, resources={"own": 1}))
    waiting.join(600)
    executor.close()
    cluster.remove_node(machines.pop())
    assert found == [(job_of(0), Pretend().outcome(job_of(0)))]
    assert Attempts(tmp_path).count(job_of(0)) == (0, 1)


@dataclass(frozen=True)
class EndsOnce(HangsOnce):
    """Runs jobs, and ends the process in the first one."""

    def _run(self, job: Job) -> Outcome:
        if not self.note.exists():
            self.note.touch()
            os._exit(3)
        return Pretend().outcome(job)


@pytest.mark.long
def test_a_process_that_ends_is_no_lost_machine(cluster: Cluster, tmp_path: Path) -> None:
    ray.init(cluster.address, log_to_driver=False, ignore_reinit_error=True)
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    executor = Pool([RayWorker(EndsOnce(tmp_path / "note"), {"CPU": 1})], Attempts(tmp_path))
    assert list(executor.run([job_of(0)])) == [(job_of(0), Pretend().outcome(job_of(0)))]
    executor.close()
    assert Attempts(tmp_path).count(job_of(0)) == (1, 0)


@pytest.mark.long
def test_a_machine_with_other_versions_or_parents_ends_the_search(cluster, tmp_path):
    ray.init(cluster.address, log_to_driver=False, ignore_reinit_error=True)
    run = searched(write_search(tmp_path, budget={"candidates": 3}), tmp_path / "run")
    record = run.record

    def message(record: Record, versions: dict[str, str]) -> str:
        plan = WorkerPlan(record=record, folder=run.folder, threads=1)
        made = RayWorker(ActorPlan(plan, 1, {"CPU": 1}, versions), {"CPU": 1})
        made.start()
        with pytest.raises(SearchError) as error:
            made.answer()
        made.close()
        return str(error.value)

    told = message(record, {"torch": "0.1"})
    assert "of the cluster the version of torch is" in told and "it is 0.1 where" in told
    parents = {**record.parents, "zoo:maths": "0" * 64}
    told = message(record.model_copy(update={"parents": parents}), {})
    assert "zoo:maths" in told and "all machines must see the same parents and tasks" in told


CHECK = """
import sys

import ray

from evomerge.execute.actors import RayWorker
from evomerge.scores import Failure

ray.init(sys.argv[1], log_to_driver=False)
worker = RayWorker(Failure("merge", "of this package"), {"bare": 1})
worker.start()
worker.answer()
"""


@pytest.mark.long
def test_a_machine_without_this_package_is_one_sentence(cluster, tmp_path, monkeypatch):
    (tmp_path / "evomerge").mkdir()
    (tmp_path / "evomerge" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    machine = cluster.add_node(num_cpus=1, resources={"bare": 1})
    monkeypatch.delenv("PYTHONPATH")
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", CHECK, cluster.address],
        cwd=tmp_path / "here",  # Ray's processes find the modules of this folder, too
        capture_output=True,
        text=True,
    )
    cluster.remove_node(machine)
    assert "cluster evomerge cannot be imported (No module named 'evomerge." in done.stderr
    assert "all machines need the same Python environment" in done.stderr


def write(folder: Path, hold: Path, **executor: Any) -> Path:
    folder.mkdir()
    return write_judged(folder, SOURCE.format(hold=str(hold)), executor=executor)


def wait_until(is_so: Callable[[], bool], driver: Any) -> None:
    wait_for(is_so, lambda: driver.poll() is None)


def wait_for(is_so: Callable[[], bool], goes_on: Callable[[], bool]) -> None:
    end = time.monotonic() + 600
    while not is_so():
        assert goes_on(), "It has ended."
        assert time.monotonic() < end, "It did not come to pass."
        time.sleep(0.05)


def hold_up(hold: Path) -> None:
    """Let each worker wait in its next candidate."""
    for note in hold.parent.glob("hold.*"):
        note.unlink()
    hold.touch()


def waiting(hold: Path) -> int:
    return len(list(hold.parent.glob("hold.*")))


def lost(run: Path) -> int:
    return (run / "log.txt").read_text().count("was lost")


def actors(*machines: Node) -> list[psutil.Process]:
    raylets = {machine.all_processes["raylet"][0].process.pid for machine in machines}
    return [
        process
        for process in psutil.process_iter(["name", "ppid"])
        if process.info["name"].startswith("ray::Actor") and process.info["ppid"] in raylets
    ]


def test_a_search_survives_the_loss_of_a_worker_of_a_machine_and_of_the_driver(cluster, tmp_path):
    cluster.add_node(num_cpus=1)  # which is still there when another one has gone
    hold, run = tmp_path / "hold", tmp_path / "ray" / "run"
    inline = write(tmp_path / "inline", hold)
    evomerge("search", inline, "--run", tmp_path / "inline" / "run", "--candidates", "22",
             PYTHONPATH=str(inline.parent))  # fmt: skip
    file = write(tmp_path / "ray", hold, kind="ray", workers=2, ray={"address": cluster.address})
    about = {"PYTHONPATH": str(file.parent)}

    hold_up(hold)
    with (tmp_path / "said").open("w") as said:
        begun = ["search", file, "--run", run, "--candidates", "22"]
        driver = start(*begun, stdout=said, stderr=said, **about)
    with ended(driver):
        wait_until(lambda: waiting(hold) == 2, driver)
        actors(cluster.head_node, *cluster.worker_nodes)[0].kill()
        wait_until(lambda: lost(run) == 1, driver)
        hold.unlink()

        def is_written(lines: int) -> bool:
            return (run / "journal.jsonl").read_bytes().count(b"\n") >= lines

        wait_until(lambda: is_written(14), driver)
        hold_up(hold)
        wait_until(lambda: waiting(hold) == 2, driver)
        machine = next(node for node in cluster.worker_nodes if actors(node))
        cluster.remove_node(machine, allow_graceful=False)
        wait_until(lambda: lost(run) == 2, driver)
        hold.unlink()
        wait_until(lambda: is_written(24), driver)
        hold_up(hold)
        wait_until(lambda: waiting(hold) >= 1, driver)
    hold.unlink()

    evomerge("resume", run, "--set", "executor.workers=1", **about)
    assert events_of(run) == events_of(tmp_path / "inline" / "run")
