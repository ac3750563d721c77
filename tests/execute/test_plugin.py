"""A package adds an executor in one file, which has keys of its own."""

import json
import signal

from search_run import events_of, evomerge, kill_when, write_search

MODULE = '''
from itertools import islice
from typing import Literal

from evomerge.config.executor import ExecutorKind, Workers


class Backwards(ExecutorKind):
    """Runs a few candidates, the last one first."""

    about = "a few at once, the last one first"

    kind: Literal["backwards"]
    """backwards: a few at once, the last one first"""
    at_once: int = 2
    """number of candidates that are taken at once"""

    def count_workers(self, evaluation):
        return Workers(text=f"1, which takes {self.at_once} candidates at once")

    def make(self, problem, logbook):
        from evomerge.execute.worker import Worker

        worker = Worker(problem, threads=logbook.history.threads)
        logbook.note_threads(worker.threads)
        return Executor(worker, self.at_once)


class Executor:
    def __init__(self, worker, at_once):
        self.worker, self.at_once = worker, at_once

    def run(self, jobs):
        jobs = iter(jobs)
        while some := list(islice(jobs, self.at_once)):
            for job in reversed(some):
                yield job, self.worker(job)

    def close(self):
        pass
'''


def test_a_package_adds_an_executor_whose_search_is_killed_and_resumed(tmp_path):
    (tmp_path / "t_package.py").write_text(MODULE)
    about = tmp_path / "t_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: t-package\nVersion: 1.0\n")
    points = "[evomerge.executors]\nbackwards = t_package:Backwards\n"
    (about / "entry_points.txt").write_text(points)
    installed = {"PYTHONPATH": str(tmp_path)}

    file, inline, run = write_search(tmp_path), tmp_path / "inline", tmp_path / "run"
    evomerge("search", file, "--run", inline, **installed)
    file = write_search(tmp_path, executor={"kind": "backwards", "at_once": 3})
    said = evomerge("validate", file, **installed).stdout
    assert "1, which takes 3 candidates at once" in said
    begun = ["search", file, "--run", run]
    assert kill_when(begun, run / "journal.jsonl", 16, 0.0, **installed) == -signal.SIGKILL
    evomerge("resume", run, "--set", "executor.at_once=2", **installed)
    assert events_of(run) == events_of(inline)

    assert "a few at once" in evomerge("list", "executors", **installed).stdout
    kinds = json.loads(evomerge("schema", **installed).stdout)["properties"]["executor"]["anyOf"]
    assert [kind["properties"]["kind"]["const"] for kind in kinds][3:] == ["backwards"]
    assert kinds[3]["properties"]["at_once"]["default"] == 2

    # Where the package is missing, the run can be read, and goes on in another way.
    assert "22" in evomerge("status", run).stdout
    refused = evomerge("resume", run, "--candidates", "24", code=2).stderr
    assert "`executor.kind` is 'backwards', which no package here has" in refused
    wrong = evomerge("resume", run, "--candidates", "24", "--set", "executor.workers=0", code=2)
    assert "`workers` is 0; it must be at least 1" in wrong.stderr and "Trace" not in wrong.stderr
    evomerge("resume", run, "--candidates", "24", "--set", "executor.kind=inline")
