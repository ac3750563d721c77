"""A candidate that ends its process, hangs in C or raises anything is a row; the search goes on."""

import ctypes
import json
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from executor_laws import Pretend, job_of
from scripted import MadeUpWorker

from evomerge.errors import CandidateError, CheckpointError, ConfigError
from evomerge.execute.pool import Pool
from evomerge.execute.processes import PRELOADED, ProcessWorker
from evomerge.execute.protocol import Attempts, Job, RunJob
from evomerge.run.history import outcome_fields
from evomerge.scores import Failure, Outcome

pytestmark = pytest.mark.thorough


class Own(BaseException):
    """An exception that `except Exception` does not catch."""


RAISED: dict[str, BaseException] = {
    "SystemExit: 3": SystemExit(3),
    "Own: mine": Own("mine"),
    "a?b": ValueError("a\ud800b"),
    "xxxx": ValueError("x" * 10_000_000),
}


@pytest.mark.parametrize("stage", ["merge", "evaluate"])
@pytest.mark.parametrize("case", RAISED)
def test_whatever_a_method_or_a_metric_raises_is_one_row(case: str, stage: str) -> None:
    """The worker is real; the builder and the evaluator raise what other code may raise."""

    def fail(*_: Any) -> Any:
        raise RAISED[case]

    def nothing(*_: Any, **__: Any) -> None:
        return None

    builder = SimpleNamespace(prepare=lambda recipe: recipe, write=nothing)
    evaluator: Any = SimpleNamespace(
        prepare=nothing,
        set_callbacks=nothing,
        halve_batches=nothing,
        forget_touch=lambda: False,
        score=fail,
        info=SimpleNamespace(tasks={}),
    )
    worker = MadeUpWorker(lambda: builder, evaluator, [job_of(0).recipe])
    if stage == "merge":
        builder.prepare = fail
    outcome = worker(job_of(1))
    assert isinstance(outcome, Failure)
    assert outcome.stage == stage and case in outcome.reason
    assert outcome.reason.isprintable() and len(outcome.reason) < 1000
    line = json.dumps(outcome_fields(outcome), ensure_ascii=False)
    assert len(line.encode()) < 2000


class Hangs(Pretend):
    """Hangs in C: it keeps Python's lock, so that no Python code of its process runs."""

    def make(self) -> RunJob:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)

        def run(job: Job) -> Outcome:
            if job.candidate == 0:
                ctypes.PyDLL(None).sleep(600)
            return self.outcome(job)

        return run


def test_a_candidate_that_hangs_in_c_ends_by_the_timeout(tmp_path: Path) -> None:
    executor = Pool([ProcessWorker(Hangs(), PRELOADED)], Attempts(tmp_path), timeout=5.0)
    late = Failure("timeout", "It took longer than executor.timeout, 5 seconds.")
    found = list(executor.run([job_of(0), job_of(1)]))
    executor.close()
    assert found == [(job_of(0), late), (job_of(1), Pretend().outcome(job_of(1)))]


@pytest.mark.parametrize("bad", [1, 2])
def test_the_next_baseline_is_taken_if_the_first_one_cannot_be_built(bad: int) -> None:
    """So the first parent is a failed row; with no baseline at all, nothing can begin."""
    recipes = [job_of(number).recipe for number in range(2)]

    def write(prepared: Any) -> Any:
        if prepared in recipes[:bad]:
            raise CandidateError("lm_head.weight: 3 NaN or infinite weights.")
        return prepared

    builder = SimpleNamespace(prepare=lambda recipe: recipe, write=write)
    evaluator: Any = SimpleNamespace(
        prepare=mock.Mock(), forget_touch=lambda: False, info=SimpleNamespace(tasks={})
    )
    if bad == len(recipes):
        with pytest.raises(CheckpointError, match=r"None of the parents.*3 NaN"):
            MadeUpWorker(lambda: builder, evaluator, recipes)
    else:
        MadeUpWorker(lambda: builder, evaluator, recipes)
        assert [call.args[0] for call in evaluator.prepare.call_args_list] == [recipes[1]]


def test_a_task_whose_code_ends_python_is_refused(monkeypatch, tmp_path):
    from evomerge.evaluation.lm_eval import loading

    def end(manager: Any, spec: Any) -> Any:
        raise SystemExit(0)

    monkeypatch.setattr(loading, "load_tasks", end)
    (tmp_path / "mine.yaml").write_text("task: mine\n")
    with pytest.raises(ConfigError, match="task 'mine' could not be loaded: SystemExit: 0; check"):
        loading.TaskLoader([str(tmp_path)]).load("mine", "objectives")
