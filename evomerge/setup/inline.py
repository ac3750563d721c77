"""The executor that builds and scores candidates in this process."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from evomerge.execute.protocol import Executor, Job
from evomerge.run.activity import WORKERS, Activity
from evomerge.run.attempts import Attempts
from evomerge.run.logbook import Logbook
from evomerge.scores import Outcome
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.worker import MemoryShare, make_worker, run_jobs


def make_inline(
    checked: CheckedSearch, run: Path, logbook: Logbook, attempts: Attempts
) -> Executor:
    """Return the inline executor of a search; see `evomerge.setup.search.MakeExecutor`."""
    from evomerge.evaluation.inference.device import keep_threads
    from evomerge.execute.inline import InlineExecutor

    put_back = keep_threads()
    share = MemoryShare.of_machine(1)
    worker = make_worker(checked, share, logbook.history.threads, logbook.note_preparation, run=run)
    logbook.note_threads(worker.threads)
    activity = Activity(run / WORKERS)

    def score(
        job: Job, scoring_context: Callable[[Any], AbstractContextManager[None]] = nullcontext
    ) -> Outcome:
        activity.note(0, "scoring", "this process", [job.candidate], job.split)
        activity.write()
        with attempts.trying(f"{job.candidate} {job.split}"):
            return worker(job, scoring_context)

    return InlineExecutor(run_jobs(score, checked.config, share), put_back)
