"""Jobs, the interface of executors, the executor in this process, and attempts at jobs."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from evomerge.errors import DeviceError
from evomerge.optimize.descent import Chunk, Reached
from evomerge.recipe import Recipe
from evomerge.run.notes import lines_of
from evomerge.scores import Failure, Outcome, Scores, Split

MAX_ATTEMPTS = 3
"""Number of processes that end while they score a candidate, at which it counts as failed."""


@dataclass(frozen=True)
class Job:
    """A recipe to build and score, or a chunk of a descent to make.

    Attributes:
        candidate: number of the candidate that the job belongs to.
        split: the documents to score the recipe's model on.
        incumbent: scores of the incumbent, for a race, which may score fewer documents.
            None: score all documents.
        known: number of outcomes that were known when it was proposed, for a race.
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
    known: int = 0
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


class Attempts:
    """The attempts at jobs that began and did not end, over all sessions of a run.

    They are in `attempts.jsonl`. A candidate can end the process that scores it, for example by a
    segmentation fault, and a resumed search would try it again, without end. One in the middle of
    whose job `MAX_ATTEMPTS` processes have ended counts as failed. A job that a signal interrupts
    is withdrawn. Lines that do not fit are none.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._begun = folder / "attempts.jsonl", Counter[str]()
        for text in lines_of(self._file):
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                line = json.loads(text)
                job, what = line["job"], line["what"]
                self._begun[job] += {"begins": 1, "withdrawn": -1}.get(what, -self._begun[job])

    def count(self, job: Job) -> int:
        """Return how many processes have ended in the middle of a job."""
        return max(0, self._begun[_name(job)])

    def given_up(self, job: Job, how: str = "without an error") -> Failure | None:
        """Return the outcome of a job in whose middle `MAX_ATTEMPTS` processes ended."""
        if (count := self.count(job)) < MAX_ATTEMPTS:
            return None
        return Failure("lost", f"{count} processes ended while this candidate was scored ({how}).")

    @contextmanager
    def trying(self, job: Job) -> Iterator[None]:
        """Note that a job begins here, and that it ends or is withdrawn when the block ends.

        A DeviceError counts as an end of the process in the middle of the job.
        """
        self._note(job, "begins")
        try:
            yield
        except DeviceError:
            raise
        except BaseException:
            self._note(job, "withdrawn")
            raise
        self._note(job, "ends")

    def note_loss(self, job: Job) -> None:
        """Count a worker that was lost in the middle of a job."""
        self._note(job, "begins")
        self._begun[_name(job)] += 1

    def _note(self, job: Job, what: str) -> None:
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"job": _name(job), "what": what}) + "\n")


class InlineExecutor:
    """Runs one job after the other in this process; `end` is called when it is closed."""

    def __init__(
        self, run: RunJob, attempts: Attempts, end: Callable[[], None] = lambda: None
    ) -> None:
        self._run, self._attempts, self.close = run, attempts, end

    def run(self, jobs: Iterable[Job]) -> Iterator[tuple[Job, Result]]:
        """Run jobs; see `Executor`."""
        for job in jobs:
            outcome: Result | None = self._attempts.given_up(job)
            if outcome is None:
                with self._attempts.trying(job):
                    outcome = self._run(job)
            yield job, outcome


def _name(job: Job) -> str:
    return f"{job.candidate} {'leg' if job.chunk else job.split}"
