"""Jobs, the interface of executors, the executor in this process, and what executors note."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, asdict, dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from evomerge.errors import DeviceError
from evomerge.optimize.descent import Chunk, Reached
from evomerge.recipe import Recipe
from evomerge.run.atomic import MARK, replace_text
from evomerge.run.notes import WORKERS, WorkerState, lines_of
from evomerge.scores import Failure, Outcome, Scores, Split

MAX_ATTEMPTS = 3
"""Number of processes that end while they score a candidate, at which it counts as failed."""

INTERVAL = 1.0
"""Least number of seconds between two writes of `Notes.write_if_due`."""


@dataclass(frozen=True)
class Job:
    """A recipe to build and score, or a chunk of a descent to make.

    Attributes:
        candidate: number of the candidate that the job belongs to.
        split: the documents to score the recipe's model on.
        incumbent: scores of the incumbent, for a race, which may score fewer documents.
            None: score all documents.
        earlier: scores of earlier candidates, for a race.
        examples: number of documents of each task whose prompt and answer come with the scores.
        oom_backoffs: how often the batch size is halved, because memory ran out in earlier jobs.
        as_itself: whether the host of the recipe, which is the host unchanged, is scored with its
            own config, tokenizer and chat template, as `evomerge evaluate` does it.
        chunk: the chunk to make instead; `recipe` is where it begins.
    """

    candidate: int
    recipe: Recipe
    split: Split = "search"
    _: KW_ONLY
    incumbent: Scores | None = None
    earlier: tuple[Scores, ...] = ()
    examples: int = 0
    oom_backoffs: int = 0
    as_itself: bool = False
    chunk: Chunk | None = None


Result: TypeAlias = Outcome | Reached
"""What comes out of a job: a `Failure`, else `Scores`, or where a chunk ended."""


RunJob: TypeAlias = Callable[[Job], Result]
"""Runs a job."""


class Executor(Protocol):
    """Runs jobs, in this process or elsewhere."""

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Yield each job with its outcome, in any order.

        A job is taken from the iterable when there is room for it, and not before the outcomes so
        far were yielded: what comes next may depend on them. If the candidate is at fault, the
        outcome is a `Failure`.

        Raises:
            EvomergeError: something else is at fault (a disk, a device, a missing parent).
        """

    def close(self) -> None:
        """Stop and free all resources; jobs that are not done are dropped."""


class InlineExecutor:
    """Runs one job after the other in this process; `end` is called when it is closed."""

    def __init__(self, run: RunJob, notes: Notes, end: Callable[[], None] = lambda: None) -> None:
        self._run, self._notes, self.close = run, notes, end

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Run jobs; see `Executor`."""
        for job in jobs:
            outcome: Result | None = self._notes.given_up(job)
            if outcome is None:
                with self._notes.trying(job):
                    outcome = self._run(job)
            yield job, outcome


class Notes:
    """What an executor notes in the run folder: attempts at jobs, and what each worker does.

    `attempts.jsonl` has the jobs that began and did not end, over all sessions. A candidate can end
    the process that scores it, for example by a segmentation fault, and a resumed search would try
    it again, without end. One in the middle of whose job `MAX_ATTEMPTS` processes have ended counts
    as failed. A job that a signal interrupts is withdrawn. Lines that do not fit are none.

    `workers.json` has the state of each worker, for `status`, until `end`.
    """

    def __init__(self, folder: Path) -> None:
        self._attempts, self._states = folder / "attempts.jsonl", folder / WORKERS
        self._begun, self._workers, self._lost = Counter[str](), dict[int, WorkerState](), 0
        self._written_at, self._is_new = -INTERVAL, False
        for text in lines_of(self._attempts):
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                line = json.loads(text)
                job, what = line["job"], line["what"]
                self._begun[job] += {"begins": 1, "withdrawn": -1}.get(what, -self._begun[job])
        if self._attempts.is_file():
            lines = ({"job": job, "what": "begins"} for job in self._begun.elements())
            replace_text(self._attempts, "".join(json.dumps(line) + "\n" for line in lines))
        self.end()  # of a session that was killed

    def end(self) -> None:
        """Remove the workers' states, since the workers have ended."""
        self._states.unlink(missing_ok=True)

    def attempts(self, job: Job) -> int:
        """Return how many processes have ended in the middle of a job."""
        return max(0, self._begun[_name(job)])

    def given_up(self, job: Job, how: str = "without an error") -> Failure | None:
        """Return the outcome of a job in whose middle `MAX_ATTEMPTS` processes ended."""
        if (count := self.attempts(job)) < MAX_ATTEMPTS:
            return None
        return Failure("lost", f"{count} processes ended while this candidate was scored ({how}).")

    @contextmanager
    def trying(self, job: Job) -> Iterator[None]:
        """Note that a job begins here, and that it ends or is withdrawn when the block ends.

        A DeviceError counts as an end of the process in the middle of the job.
        """
        self.note_worker(0, "scoring", "this process", job)
        self._write()
        self._attempt(job, "begins")
        try:
            yield
        except DeviceError:
            raise
        except BaseException:
            self._attempt(job, "withdrawn")
            raise
        self._attempt(job, "ends")

    def note_loss(self, job: Job | None = None) -> None:
        """Count a worker that was lost, in the middle of a job."""
        self._lost, self._is_new = self._lost + 1, True
        if job is not None:
            self._attempt(job, "begins")
            self._begun[_name(job)] += 1

    def note_worker(self, number: int, state: str, place: str = "", job: Job | None = None) -> None:
        """Note what a worker begins to do; see `WorkerState`."""
        self._workers[number] = WorkerState(
            number=number,
            state=state,
            place=place,
            candidates=() if job is None else (job.candidate,),
            split="" if job is None else job.split,
            since=round(time.time(), 3),
        )
        self._is_new = True

    def write_if_due(self) -> None:
        """Write the workers' states if they are new, and the last time is `INTERVAL` ago."""
        if self._is_new and time.monotonic() - self._written_at >= INTERVAL:
            self._write()

    def _write(self) -> None:
        workers = [asdict(state) for _, state in sorted(self._workers.items())]
        # The next writer of the run removes a file of this name that a killed one has left.
        part = self._states.with_name(f".{WORKERS}{MARK}{os.getpid()}")
        part.write_text(json.dumps({"workers": workers, "lost": self._lost}) + "\n")
        part.replace(self._states)
        self._written_at, self._is_new = time.monotonic(), False

    def _attempt(self, job: Job, what: str) -> None:
        with self._attempts.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"job": _name(job), "what": what}) + "\n")


def _name(job: Job) -> str:
    return f"{job.candidate} {'leg' if job.chunk else job.split}"
