"""Scoring of one model after another on documents that were prepared once."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from evomerge.errors import CandidateError, one_line
from evomerge.evaluate.inference.fingerprint import Fingerprint
from evomerge.evaluate.inference.forward import Forward
from evomerge.evaluate.inference.memory import is_device_failure
from evomerge.evaluate.inference.reference import ReferenceLM
from evomerge.evaluate.inference.request import Request
from evomerge.evaluate.inference.vllm import EngineForward, VllmEngine
from evomerge.evaluate.tasks.functions import Function
from evomerge.evaluate.tasks.harness import DocumentMetrics, Harness
from evomerge.evaluate.tasks.info import TasksInfo
from evomerge.scores import Scores, Split

log = logging.getLogger(__name__)

Documents: TypeAlias = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class Answers:
    """The metrics of a model's answers, document by document.

    Attributes:
        rows: task -> document id -> metric key -> value as lm-eval gives it.
    """

    rows: Mapping[str, Mapping[int, DocumentMetrics]]

    def has(self, task: str, document: int) -> bool:
        """Whether a document was answered."""
        return document in self.rows.get(task, {})

    def __or__(self, other: Answers) -> Answers:
        """Return the answers to the documents of both."""
        tasks = [*self.rows, *(task for task in other.rows if task not in self.rows)]
        return Answers({t: {**self.rows.get(t, {}), **other.rows.get(t, {})} for t in tasks})


@dataclass(frozen=True)
class TaskSet:
    """The tasks and functions that supply the documents of a split.

    Attributes:
        harness: the lm-eval tasks, None where there are none.
        functions: by the name that objectives know them by.
    """

    harness: Harness | None
    functions: Mapping[str, Function]

    @property
    def info(self) -> TasksInfo:
        """What the tasks and functions offer."""
        known = self.harness.info if self.harness else TasksInfo({}, {})
        own = {name: function.info for name, function in self.functions.items()}
        return TasksInfo({**known.tasks, **own}, known.groups)

    def labels(self, task: str, field: str, documents: Sequence[int]) -> list[str]:
        """Return a field of some documents, to stratify by; a function's are all alike.

        Raises:
            ConfigError: the task's documents have no such field.
        """
        if self.harness is None or task in self.functions:
            return [""] * len(documents)
        values = self.harness.field(task, field)
        return [values[document] for document in documents]


class Evaluator:
    """Scores models on the documents of a search.

    Call `prepare` once, then `score` for each candidate. For one model and one choice of documents
    the scores are the same bits every time, whatever was scored before.

    A function may do to the model what it likes. Where `lend` has said how a model is built anew,
    model and tokenizer are compared with what they were before each call of a function, and if
    they differ nothing else is scored on them.

    Args:
        harness: the lm-eval tasks, None where there are own functions only.
        functions: own objectives.
        batch_size: most rows in a batch, or `auto`: as many as the memory of the device allows.
        backend: `hf` runs the models themselves, `vllm` puts their weights into an engine.
        by_split: the tasks of splits whose documents come from other tasks, under the same names.

    Attributes:
        is_spoilt: whether a function has changed the model, and it was not built anew since.
    """

    def __init__(
        self,
        harness: Harness | None,
        functions: Sequence[Function] = (),
        batch_size: int | Literal["auto"] = "auto",
        backend: Literal["hf", "vllm"] = "hf",
        by_split: Mapping[Split, TaskSet] | None = None,
    ) -> None:
        self.default = TaskSet(harness, {item.info.name: item for item in functions})
        self.by_split = by_split or {}
        self.batch_size, self.backend = batch_size, backend
        self._requests: dict[tuple[Split, str], dict[int, list[Request]]] = {}
        self._engine: VllmEngine | None = None
        self.is_spoilt = False
        self.lend(None)

    @property
    def info(self) -> TasksInfo:
        """What the tasks and functions offer."""
        return self.default.info

    def tasks_of(self, split: Split) -> TaskSet:
        """Return the tasks that supply a split's documents."""
        return self.by_split.get(split, self.default)

    def prepare(self, model: Any, tokenizer: Any, splits: Mapping[Split, Documents]) -> None:
        """Set the documents and find the fastest right way to run.

        The prompts and tokens of the first split are built here, those of another when it is first
        scored.

        Args:
            model: a loaded model of the architecture that will be scored, on its device, with
                sensible weights (a parent): a few documents are scored on it in different ways,
                to see which give the right answer.
            tokenizer: its tokenizer.
            splits: split -> task -> ids of the documents that may be asked for.

        Raises:
            ConfigError: a task asks for more than the model can read.
        """
        self.tokenizer, self.splits = tokenizer, splits
        self._requests, self.is_spoilt = {}, False
        first, documents = next(iter(splits.items()))
        if any(self.tasks_of(split).harness is not None for split in splits):
            self._reference = ReferenceLM(model, tokenizer)
            self.forward: Forward | EngineForward
            if self.backend == "vllm":
                self._engine = self._engine or VllmEngine(model, tokenizer)
                self.forward = EngineForward(self._reference, self._engine)
            else:
                self.forward = Forward(model, tokenizer, self._reference, self.batch_size)
            functions = self.tasks_of(first).functions
            tasks = [task for task in documents if task not in functions]
            self.forward.check(model, [list(self.requests(first, t).values()) for t in tasks])

    def lend(
        self,
        renew: Callable[[], Any] | None,
        around: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Say how to treat the model that is scored next.

        Args:
            renew: builds it anew after a function has changed it, and calls `prepare` first; None
                leaves it as the function left it.
            around: gets the model; lm-eval's tasks are scored inside of what it returns. Functions
                are not, so that they see the model as it is.
        """
        self._renew, self._around, self._instead = renew, around, None

    def release(self) -> None:
        """Forget the model that `prepare` was given, and its memory with it."""
        for name in ("forward", "_reference"):
            vars(self).pop(name, None)
        self._instead = None

    @property
    def halvings(self) -> int:
        """How often batches were halved, since memory ran out."""
        forward = getattr(self, "forward", None)
        return forward.halvings if isinstance(forward, Forward) else 0

    def halve_batches(self, halvings: int) -> None:
        """Halve batches so often, as a candidate before had to."""
        forward = getattr(self, "forward", None)
        if isinstance(forward, Forward):
            forward.halve(halvings)

    def score(
        self, model: Any, split: Split = "search", documents: Documents | None = None
    ) -> Scores:
        """Return a model's scores on a split, or on some of its documents.

        Raises:
            CandidateError: the model cannot be run on them.
        """
        began = time.perf_counter()
        answers = self.answer(model, split, documents)
        return self.scores(answers, time.perf_counter() - began, split)

    def answer(
        self, model: Any, split: Split = "search", documents: Documents | None = None
    ) -> Answers:
        """Return a model's answers on a split, or on some of its documents.

        Raises:
            CandidateError: the model cannot be run on them.
        """
        chosen = documents if documents is not None else self.splits[split]
        asked = {task: tuple(sorted(ids)) for task, ids in chosen.items() if len(ids)}
        rows: dict[str, dict[int, DocumentMetrics]] = {}
        harness, functions = self.tasks_of(split).harness, self.tasks_of(split).functions
        with _failures():
            if harness is not None:
                model = self._intact(model)
                requests = {
                    task: [self.requests(split, task)[i] for i in ids]
                    for task, ids in asked.items()
                    if task not in functions
                }
                by_document = [item for of_task in requests.values() for item in of_task]
                with self._around(model):
                    self.forward(model, (split, tuple(asked.items())), by_document)
                for task, of_task in requests.items():
                    instances = [[request.instance for request in item] for item in of_task]
                    measured = harness.measure(task, instances)
                    rows[task] = dict(zip(asked[task], measured, strict=True))
            for task in asked:
                if task in functions:
                    model = self._intact(model)
                    results = self._call(functions[task], model, asked[task])
                    rows[task] = {
                        document: {metric: values[place] for metric, values in results.items()}
                        for place, document in enumerate(asked[task])
                    }
        return Answers({task: rows[task] for task in asked})

    def _intact(self, model: Any) -> Any:
        """Return the model that is scored, built anew if a function has changed it."""
        if self.is_spoilt and self._renew is not None:
            self._instead = self._renew()
        return model if self._instead is None else self._instead

    def _call(
        self, function: Function, model: Any, documents: Sequence[int]
    ) -> dict[str, tuple[float, ...]]:
        """Call a function and take note if it changes the model."""
        if self._renew is None:
            return function(model, self.tokenizer, documents)
        before = Fingerprint(model, self.tokenizer)
        try:
            return function(model, self.tokenizer, documents)
        finally:
            if not before.fits(model, self.tokenizer):
                self.is_spoilt = True
                log.warning(
                    "Objective %s changed the model or the tokenizer; both are built anew. Let it "
                    "work on copy.deepcopy(model) to save the time.",
                    function.info.name,
                )

    def scores(self, answers: Answers, seconds: float, split: Split = "search") -> Scores:
        """Return the scores that answers on a split amount to.

        Args:
            seconds: what the answers took.
        """
        harness, functions = self.tasks_of(split).harness, self.tasks_of(split).functions
        values: dict[str, tuple[float, ...]] = {}
        aggregates: dict[str, dict[str, float]] = {}
        documents = {task: tuple(sorted(rows)) for task, rows in answers.rows.items()}
        for task, ids in documents.items():
            rows = [answers.rows[task][i] for i in ids]
            keys = dict.fromkeys(key for row in rows for key in row)
            if task in functions:
                columns: dict[str, tuple[float, ...] | None] = {
                    key: tuple(row[key] for row in rows) for key in keys
                }
                aggregates[task] = {key: sum(row[key] for row in rows) / len(rows) for key in keys}
            else:
                assert harness is not None
                columns = {key: harness.per_document(task, key, rows) for key in keys}
                aggregates[task] = harness.aggregate(task, rows)
            values |= {f"{task}/{key}": items for key, items in columns.items() if items}
        if harness is not None:
            sizes = {task: len(ids) for task, ids in documents.items()}
            aggregates |= harness.aggregate_groups(aggregates, sizes)
        flat = {
            f"{task}/{key}": v for task, figures in aggregates.items() for key, v in figures.items()
        }
        return Scores(documents, values, flat, {"evaluate": seconds})

    def requests(self, split: Split, task: str) -> dict[int, list[Request]]:
        """Return the requests of a split's documents by id, built when first asked for."""
        if (split, task) not in self._requests:
            harness = self.tasks_of(split).harness
            assert harness is not None
            ids = sorted(self.splits[split][task])
            built = harness.build(task, ids, self._reference)
            self._requests[split, task] = {
                document: [self._reference.request(instance) for instance in instances]
                for document, instances in zip(ids, built, strict=True)
            }
        return self._requests[split, task]


@contextmanager
def _failures() -> Iterator[None]:
    """Turn what a broken model raises into a failed candidate."""
    try:
        yield
    except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
        if is_device_failure(error):
            raise
        raise CandidateError(f"The model could not be scored: {one_line(error)}") from error
