"""Jobs, the interface of executors, and the attempts at jobs."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeAlias

from evomerge.errors import DeviceError
from evomerge.recipe import Recipe
from evomerge.run.history import PREPARED
from evomerge.run.journal import lines_of
from evomerge.scores import Failure, Outcome, Split

MAX_ATTEMPTS = 3
"""Number of processes that end while they score a candidate, at which it counts as failed."""

MAX_MACHINES = 10
"""Number of machines that are lost meanwhile, at which it does: losing one is rarely its fault."""


class Work(Protocol):
    """What a strategy needs before it proposes a candidate, done by a worker; it can be pickled."""

    phase: ClassVar[str]
    """What its time is noted as."""

    @property
    def recipe(self) -> Recipe:
        """A recipe that it begins with."""

    def run(self, worker: Any) -> Mapping[str, Any]:
        """Do the work with the `evomerge.execute.worker.Worker`; return plain data to journal."""

    def failed(self, why: str) -> Mapping[str, Any]:
        """Return the result if the worker was lost, took too long or has failed."""

    def cost(self, worker: Any, steps: int | None = None) -> Mapping[str, Any]:
        """Return what it, or its first steps alone, costs: fields of a `CostProbe`.

        SearchError: it cannot be done.
        """


@dataclass(frozen=True, kw_only=True)
class WorkResult:
    """What came out of a work: fields for the journal, and the time and memory it took."""

    fields: Mapping[str, Any]
    seconds: Mapping[str, float] = field(default_factory=dict)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict)
    peak: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Job:
    """A recipe to build and score, or a work to do.

    Attributes:
        candidate: number of the candidate that the job belongs to.
        split: the documents to score the recipe's model on.
        documents: task -> ids of the documents of the split to score; None: all.
        examples: number of documents of each task whose prompt and answer come with the scores.
        oom_backoffs: how often the batch size is halved, because memory ran out in earlier jobs.
        as_itself: whether the host of the recipe, which is the host unchanged, is scored with its
            own config, tokenizer and chat template, as `evomerge evaluate` does it.
        work: what is done instead of scoring, before this candidate.
        texts: those of the base, if its `documents` have some.
    """

    candidate: int
    recipe: Recipe
    split: Split = "search"
    _: KW_ONLY
    documents: Mapping[str, Sequence[int]] | None = None
    examples: int = 0
    oom_backoffs: int = 0
    as_itself: bool = False
    work: Work | None = None
    texts: Sequence[Any] = ()


Result: TypeAlias = Outcome | WorkResult
"""What comes out of a job: a `Failure`, else `Scores`, or the result of its work."""


RunJob: TypeAlias = Callable[[Job], Result]
"""Runs a job."""


class MakesWorker(Protocol):
    """Makes what runs jobs, in the process to which it is sent; so it can be pickled."""

    def make(self) -> RunJob:
        """Return what runs jobs."""


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
    is withdrawn. Lines that do not fit are ignored.

    A process may also have ended with its machine, which is not the fault of the candidate: of the
    processes on a machine that has been restarted since, or is another one, the last one may have.
    """

    def __init__(self, folder: Path) -> None:
        self._file, self._machine = folder / "attempts.jsonl", _machine()
        self._begun: dict[str, Counter[str | None]] = defaultdict(Counter)
        """Job -> machine -> attempts; None: a machine that was lost; "": an unknown one."""
        for text in lines_of(self._file):
            with suppress(ValueError, RecursionError, TypeError, KeyError):
                line = json.loads(text)
                job, what = line["job"], line["what"]
                if what == "ends":
                    self._begun[job].clear()
                else:
                    change = {"begins": 1, "withdrawn": -1}[what]
                    self._begun[job][line.get("machine", "")] += change

    def count(self, job: Job) -> tuple[int, int]:
        """Return how many processes have ended in the middle of a job, and how many machines."""
        begun = +self._begun[_name(job)]
        machines = sum(1 for name in begun if name not in (None, "", self._machine))
        lost = machines + begun[None]
        return begun.total() - lost, lost

    def given_up(self, job: Job, how: str = "without an error") -> Failure | None:
        """Return a failure if too many processes or machines were lost while running a job."""
        processes, machines = self.count(job)
        if processes >= MAX_ATTEMPTS:
            what = f"{processes} processes ended"
        elif machines >= MAX_MACHINES:
            what = f"{machines} machines were lost"
        else:
            return None
        return Failure("lost", f"{what} while this candidate was scored ({how}).")

    @contextmanager
    def trying(self, job: Job) -> Iterator[None]:
        """Note that a job begins here, and that it ends or is withdrawn when the block ends.

        A DeviceError counts as an end of the process in the middle of the job.
        """
        self._note(job, "begins", self._machine)
        try:
            yield
        except DeviceError:
            raise
        except BaseException:
            self._note(job, "withdrawn", self._machine)
            raise
        self._note(job, "ends", self._machine)

    def note_loss(self, job: Job, *, with_machine: bool = False) -> None:
        """Count a worker that was lost in the middle of a job, perhaps with its machine."""
        machine = None if with_machine else self._machine
        self._note(job, "begins", machine)
        self._begun[_name(job)][machine] += 1

    def _note(self, job: Job, what: str, machine: str | None) -> None:
        line = {"job": _name(job), "what": what, "machine": machine}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")


def _name(job: Job) -> str:
    return f"{job.candidate} {PREPARED if job.work else job.split}"


def _machine() -> str:
    """Return what names this machine until it is restarted; empty if nothing does."""
    with suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return ""
