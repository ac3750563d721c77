"""What models are measured by: the protocol of all objectives, and those of one task.

Kinds are lm-eval's tasks (`lm_eval/objective.py`), rows of a file (`rows.py`) and functions
(`functions.py`).
"""

import copy
import math
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeAlias

from evomerge.device import is_device_failure
from evomerge.errors import CandidateError, one_line, printable
from evomerge.evaluation.tasks.info import TaskInfo, TasksInfo
from evomerge.models.checkpoint import Checkpoint
from evomerge.scores import Example, Split
from evomerge.trust.calls import seeded
from evomerge.trust.code import is_installed

Documents: TypeAlias = Mapping[str, Sequence[int]]
"""Task -> ids of documents, ascending."""

DocumentMetrics: TypeAlias = dict[str, Any]
"""Metric key -> value of one document."""

MetricRows: TypeAlias = Mapping[str, Sequence[DocumentMetrics]]
"""Task -> the metrics of each document."""

Measured: TypeAlias = Mapping[str, Sequence[Any]]
"""Metric -> one value for each document, of which `aggregate` makes the score."""

Summary: TypeAlias = tuple[Mapping[str, tuple[float, ...]], Mapping[str, float]]
"""Metric -> one number for each document, if it has any; and metric -> score."""

_MOST_LINES = 200  # of a traceback; the last ones are kept
_PROMPT, _ANSWER = 600, 300
"""Characters that are kept: of a prompt the last ones, of an answer and a target the first."""


@dataclass(frozen=True, kw_only=True)
class Merges:
    """What an objective is told of the models that it will measure, before there is one.

    Attributes:
        host: the parent that gives the merges their config.
        parents: those that are merged and fit the host, which may be one of them.
        tokenizer: that of the merges; None: each model has its own.
        vocabulary: the key `tokenizer` of the search file.
        generation: returns transformers' generation config; None: that of their class.
        are_paths: whether their layers are a path through those of the parents.
        descends: whether the search follows gradients.
    """

    host: Checkpoint
    parents: Sequence[Checkpoint] = ()
    tokenizer: Any = None
    vocabulary: str = "base"
    generation: Callable[[], Any] = lambda: None
    are_paths: bool = False
    descends: bool = False


class Objective:
    """What models are measured by: tasks with documents, and the metrics of each document.

    What is said by class attributes is asked before the documents are loaded.

    Attributes:
        info: its tasks and groups: how many documents each has, and which metrics.
    """

    info: TasksInfo

    is_foreign: ClassVar[bool] = True
    """Whether code of others scores. It runs with seeds, is tried before the first candidate, and
    may change a model, which is built again behind it."""
    is_divisible: ClassVar[bool] = True
    """Whether documents can be scored a few at a time at about their share of the cost."""
    has_answers: ClassVar[bool] = False
    """Whether documents have answers that models can learn, as those of lm-eval's tasks have; see
    `check_answers`. Gradients read lm-eval's answers only, so other kinds leave it."""
    needs_modules: ClassVar[bool] = False
    """Whether models have the modules that `modules.json` of the host lists."""
    writes: ClassVar[bool] = False
    """Whether models must write texts."""
    uses_templates: ClassVar[bool] = True
    """Whether it may write texts by the chat template of a tokenizer."""
    packages: ClassVar[tuple[str, ...]] = ()
    """Packages whose versions may change scores."""
    imports: ClassVar[tuple[str, ...]] = ()
    """Modules that it imports to score, which take a while."""
    origin: ClassVar[str] = "files"
    """What a person restores if documents are not those that a run began with."""

    def score(self, model: Any, tokenizer: Any, documents: Documents) -> MetricRows:
        """Return task -> the metrics of each document; CandidateError: the model has none."""
        raise NotImplementedError

    def digest(self, task: str, ids: Sequence[int]) -> str:
        """Return a digest of what scores depend on beside the model; empty: it is not known."""
        return ""

    def forms(self, task: str, *, rendered: bool) -> Callable[[int], Sequence[str]]:
        """Return a function: document id -> texts by which it is compared with other documents.

        `rendered`: these may come from other data sets.
        """
        return lambda document: ()

    def check(self, merges: Merges) -> None:
        """Raise an `InputError` unless these models can be measured."""

    def check_documents(self, documents: Documents, split: Split) -> None:
        """Raise a `ConfigError` unless these documents of a split can be scored."""

    def can_teach(self, host: Checkpoint) -> bool:
        """Return whether gradients of models like a host can be followed to the answers."""
        return self.has_answers

    def check_answers(self, task: str, ids: Sequence[int]) -> None:
        """Raise a `ConfigError` unless documents have an answer that models can learn."""

    def learns_whole(self, task: str, metric: str) -> bool:
        """Whether an answer that is right by a metric is the reference answer, and nothing more."""
        return False

    def needed_parts(self) -> frozenset[str]:
        """Return the parts that a model must have beside its language model; see `parts.py`."""
        return frozenset()

    def words(self, merges: Merges) -> Mapping[str, Any]:
        """Return rows of `evomerge validate`: name -> text."""
        return {}

    def warnings(self, merges: Merges) -> Iterable[str]:
        """Return what a person should know before the search begins, in sentences."""
        return ()

    def benchmarks(self) -> Iterator[str]:
        """Yield warnings that documents are those of public benchmarks."""
        yield from ()

    def prepare(
        self, model: Any, tokenizer: Any, splits: Sequence[Documents], deepest: Callable[[], Any]
    ) -> None:
        """Get ready to score models like this one, on the documents of these splits.

        `deepest` returns a model with as many layers as one can have.
        """

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model of `prepare`, and to an engine if that is wanted."""

    @property
    def oom_backoffs(self) -> int:
        """How often batches were halved because memory ran out."""
        return 0

    def halve_batches(self, oom_backoffs: int) -> None:
        """Halve batches until they have been halved so often, or more."""

    def summary(self, task: str, rows: Sequence[DocumentMetrics]) -> Summary:
        """Return metric -> one number for each document, if it has any; and metric -> score."""
        columns = {key: tuple(row[key] for row in rows) for key in rows[0]}
        metrics = self.info.tasks[task].metrics
        means = {key: column for key, column in columns.items() if metrics[key].is_mean}
        return means, {key: self.aggregate(key, column) for key, column in columns.items()}

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the score from the values of a metric: their mean."""
        return float(sum(values) / len(values))

    def example(self, task: str, document: int, values: Mapping[str, float]) -> Example | None:
        """Return a document that was scored last, with the answer; None: it has nothing to show."""
        return None

    def prompts(
        self, model: Any, tokenizer: Any, documents: Documents, count: int
    ) -> list[Example]:
        """Return the first `count` documents of each task with prompt and target, not answered.

        Of the model, only the configs are read. An objective without prompts returns none.
        """
        return []

    def texts(self, task: str, documents: Sequence[int]) -> dict[int, str]:
        """Return the latest answers to documents that a model generates answers to."""
        return {}


class SingleTask(Objective):
    """An objective of one task; `name` is by what search and scores know it."""

    def __init__(self, task: TaskInfo) -> None:
        self.task, self.name = task, task.name
        self.info = TasksInfo({task.name: task}, {})

    def under(self, name: str) -> Self:
        """Return the objective by the name of another one, whose documents it replaces."""
        other = copy.copy(self)
        other.name, other.info = name, TasksInfo({name: self.task}, {})
        return other

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return metric -> one value for each document, in their order."""
        raise NotImplementedError

    def score(self, model: Any, tokenizer: Any, documents: Documents) -> MetricRows:
        """Return the metrics of each document.

        Raises:
            CandidateError: `measure` is code of others and raised an exception (other than
                KeyboardInterrupt), or it did not return one finite number for each document and
                metric that is a mean.
        """
        ids = documents[self.name]
        columns = (self._guarded if self.is_foreign else self.measure)(model, tokenizer, ids)
        lines = zip(*columns.values(), strict=True)
        return {self.name: [dict(zip(columns, line, strict=True)) for line in lines]}

    def _guarded(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        name, metrics, count = self.task.name, self.task.metrics, len(documents)
        try:
            with seeded():
                columns = self.measure(model, tokenizer, documents)
                if set(columns) != set(metrics):
                    raise CandidateError(
                        f"Objective {name} returned metrics {sorted(map(str, columns))}; it must "
                        f"return those of its `metrics`: {sorted(metrics)}."
                    )
                return {
                    key: _numbers(name, key, values, count) if metrics[key].is_mean else values
                    for key, values in columns.items()
                }
        except (KeyboardInterrupt, CandidateError):
            raise
        except BaseException as error:  # SystemExit must not end the search either
            if is_device_failure(error):
                raise
            raise CandidateError(
                f"Objective {name}{_raised_at(error)} raised {type(error).__name__}: "
                f"{one_line(error)}"
            ) from error


def _numbers(name: str, metric: str, values: Any, count: int) -> tuple[float, ...]:
    """Return scores as floats, taken from a list, a tuple, an array or a tensor of numbers."""
    items = values.tolist() if hasattr(values, "tolist") else values  # of numpy and torch
    with suppress(TypeError, ValueError, OverflowError):
        if isinstance(items, (list, tuple)) and len(items) == count:
            numbers = tuple(map(float, items))
            if all(map(math.isfinite, numbers)) and not {*map(type, items)} & {str, bool}:
                return numbers
    raise CandidateError(
        f"Objective {name} returned {values!r:.80} of {metric} for {count} documents; it must "
        "return a list with one finite number (int or float) for each document."
    )


def _raised_at(error: BaseException) -> str:
    """Return in brackets the innermost line that is not in a library: ` (judges.py, line 12)`."""
    places = traceback.extract_tb(error.__traceback__)
    users = [f for f in places if f.filename[0] != "<" and not is_installed(Path(f.filename))]
    place = (users or places)[-1]
    return f" ({Path(place.filename).name}, line {place.lineno})"


def traceback_lines(error: BaseException) -> str:
    """Return the last lines of the traceback of an exception, for the log of a run."""
    lines = "".join(traceback.format_exception(error)).splitlines()
    return "\n".join(map(printable, lines[-_MOST_LINES:]))


def in_short(
    task: str, document: int, texts: Sequence[str], values: Mapping[str, float]
) -> Example:
    """Return a scored document with long texts cut: prompt, answer, parsed answer, target."""
    prompt, *others = texts
    prompt = prompt if len(prompt) <= _PROMPT else "..." + prompt[-_PROMPT:]
    short = [plain(text if len(text) <= _ANSWER else text[:_ANSWER] + "...") for text in others]
    return Example(task, document, plain(prompt), short[0], short[1], short[2], dict(values))


def plain(text: str) -> str:
    """Return the text without lone surrogates, which no file can hold."""
    return text.encode("utf-8", "replace").decode()
