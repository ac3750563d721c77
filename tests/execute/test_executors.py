"""Every executor keeps the laws of executors; workers in other processes can be lost."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil
import pytest
from executor_laws import Pretend, check_executor, job_of
from search_run import ended

from evomerge.errors import DeviceError, SearchError
from evomerge.execute.inline import InlineExecutor
from evomerge.execute.pool import Pool
from evomerge.execute.processes import PRELOADED, ProcessWorker
from evomerge.execute.protocol import Attempts, Job, MakesWorker, RunJob
from evomerge.scores import Failure, Outcome

pytestmark = pytest.mark.thorough


def processes(
    plan: MakesWorker,
    folder: Path,
    count: int = 2,
    preload: Sequence[str] = PRELOADED,  # of the one server that all tests of this process have
    **options: Any,
) -> Pool:
    workers = [ProcessWorker(plan, preload) for _ in range(count)]
    notes = folder / f"notes-{uuid4()}"
    notes.mkdir()
    return Pool(workers, Attempts(notes), **options)


def test_the_inline_executor_keeps_the_laws(tmp_path: Path) -> None:
    check_executor(lambda plan: InlineExecutor(plan.make(), Attempts(tmp_path)), survives=False)


@pytest.mark.parametrize("count", [1, 3])
def test_the_executor_of_processes_keeps_the_laws(count: int, tmp_path: Path) -> None:
    check_executor(lambda plan: processes(plan, tmp_path, count))


@dataclass(frozen=True)
class Ill:
    """Runs jobs that misbehave once or always, by the number of their candidate."""

    notes: Path

    def make(self) -> RunJob:
        return self._run

    def _run(self, job: Job) -> Outcome:
        first = not (self.notes / str(job.candidate)).exists()
        (self.notes / str(job.candidate)).write_text(str(os.getpid()))
        if job.candidate == 1:
            time.sleep(600)
        if job.candidate == 2 and first:
            os.kill(os.getpid(), signal.SIGSEGV)
        if job.candidate == 3 and first:
            raise DeviceError("The device has fallen off the bus.")
        if job.candidate == 4 and first:
            os._exit(7)
        return Pretend().outcome(job)


def test_a_job_that_hangs_is_ended_and_one_that_is_hit_once_is_run_again(tmp_path, caplog):
    pids, attempts = tmp_path / "pids", Attempts(tmp_path)
    pids.mkdir()
    workers = [ProcessWorker(Ill(pids), PRELOADED) for _ in range(2)]
    executor = Pool(workers, attempts, timeout=5.0)
    found = {job.candidate: outcome for job, outcome in executor.run(map(job_of, range(5)))}
    executor.close()
    assert found.pop(1) == Failure("timeout", "It took longer than executor.timeout, 5 seconds.")
    assert found == {number: Pretend().outcome(job_of(number)) for number in (0, 2, 3, 4)}
    lines = (tmp_path / "attempts.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["job"][0] for line in lines) == ["2", "3", "4"]
    lost = [item for item in caplog.records if "was lost" in item.getMessage()]
    assert len(lost) == 3 and any("by the signal SIGSEGV" in item.getMessage() for item in lost)


def test_a_worker_that_ends_between_two_jobs_is_replaced(tmp_path: Path) -> None:
    executor = processes(Ill(tmp_path), tmp_path, 1)
    list(executor.run([job_of(0)]))
    process = psutil.Process(int((tmp_path / "0").read_text()))
    process.kill()
    process.wait(250)
    assert list(executor.run([job_of(6)])) == [(job_of(6), Pretend().outcome(job_of(6)))]
    executor.close()


class FailsToStart(Pretend):
    def make(self) -> RunJob:
        os._exit(7)


def test_a_worker_that_cannot_start_ends_the_search(tmp_path: Path) -> None:
    executor = processes(FailsToStart(), tmp_path, 1)
    with pytest.raises(SearchError, match="exit status 7"):
        list(executor.run([job_of(0)]))
    executor.close()


ORPHANS = """
import sys
from pathlib import Path

from test_executors import Ill, processes
from executor_laws import job_of

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for _ in processes(Ill(folder), folder, preload=()).run([job_of(0), job_of(1)]):
        print("ready", flush=True)
"""


def test_workers_end_with_the_process_that_started_them(tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(ORPHANS)
    place = os.pathsep.join((str(Path(__file__).parent), *sys.path))
    driver = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": place},
    )
    with ended(driver):
        assert driver.stdout is not None and driver.stdout.readline() == b"ready\n"
        while not (tmp_path / "1").exists():
            time.sleep(0.05)
        children = psutil.Process(driver.pid).children(recursive=True)
    _, alive = psutil.wait_procs(children, timeout=250)
    assert len(children) >= 3 and not alive
