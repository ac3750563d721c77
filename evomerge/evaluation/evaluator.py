"""Scoring many models on the same documents, whose prompts and tokens are prepared only once."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import InitVar, dataclass, field, replace
from typing import Any, Literal, TypeAlias

from evomerge.errors import CandidateError, one_line
from evomerge.evaluation.answers import PROPERTIES, Answers, TaskSet
from evomerge.evaluation.inference.device import is_device_failure
from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.reference import Reasoning, ReferenceLM, Request
from evomerge.evaluation.inference.vllm import EngineForward, VllmEngine
from evomerge.evaluation.nll import nll, of_reference
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.tasks.rows import RowsObjective
from evomerge.evaluation.tasks.scoring import DocumentMetrics, example, plain
from evomerge.scores import MODEL, NLL, TOKENS, Example, Scores, Split

_FEW = 8  # documents of each task in `try_out`

Documents: TypeAlias = Mapping[str, Sequence[int]]
"""Task -> ids of documents."""


@dataclass(eq=False)
class Evaluator:
    """Scores models on the documents of a search.

    Call `prepare` once, then `score` for each candidate. A model has the same scores on the same
    documents every time, bit for bit.

    An objective function of a user may change the weights. So with a way to build the model again
    (`set_callbacks`), it is built again before anything else is scored.

    Args:
        harness: the lm-eval tasks, or None if there are none.
        functions: functions of the user, and objectives with rows of a file.
        batch_size: maximum rows in a batch; `auto` sets it by the memory of the device.
        backend: `hf` runs models by transformers; `vllm` generates texts with a vLLM engine.
        by_split: the tasks of each split whose documents come from other tasks, by the names of the
            tasks that they replace.
        tensor_parallel: accelerators that the engine is divided over.
        counted, referenced: the tasks with the metric `tokens`, how many a model has generated, and
            with the metric `nll`, for which reference answers are scored.
        properties: the properties of models that come with their scores (`MODEL_METRICS`).
        seed: of texts that tasks sample. Each text has a seed of its own, by this one, the task,
            the document and the number of the repeat.

    Attributes:
        batched: runs models by transformers; `forward` may use an engine too.
        is_touched: whether a function of a user has had the model since it was last built.
    """

    harness: InitVar[Harness | None]
    functions: InitVar[Sequence[ObjectiveFunction | RowsObjective]] = ()
    batch_size: int | Literal["auto"] = "auto"
    backend: Literal["hf", "vllm"] = "hf"
    by_split: Mapping[Split, TaskSet] = field(default_factory=dict)
    tensor_parallel: int = 1
    counted: Collection[str] = ()
    properties: Collection[str] = ()
    reasoning: Reasoning = field(default_factory=Reasoning)
    seed: int = 0
    referenced: Collection[str] = ()

    def __post_init__(
        self, harness: Harness | None, functions: Sequence[ObjectiveFunction | RowsObjective]
    ) -> None:
        self.default = TaskSet(harness, {item.info.name: item for item in functions})
        self._requests: dict[tuple[Split, str], dict[int, list[Request]]] = {}
        self._references: dict[tuple[Split, str], dict[int, list[Request]]] = {}
        self._answered: dict[tuple[Split, str], dict[int, list[Any]]] = {}  # the latest answers
        self._engine: VllmEngine | None = None
        self.batched: Forward | None = None
        self.forward: Forward | EngineForward | None = None
        self.is_touched = False
        self.set_callbacks(None)

    @property
    def info(self) -> TasksInfo:
        """Documents and metrics of the tasks and functions."""
        return self.default.info

    @property
    def code_tasks(self) -> list[str]:
        """The tasks that run code which models write."""
        sets = (self.default, *self.by_split.values())
        return list(dict.fromkeys(name for of in sets if of.harness for name in of.harness.origins))

    def tasks_of(self, split: Split) -> TaskSet:
        """Return the tasks that supply a split's documents."""
        return self.by_split.get(split, self.default)

    def harness_of(self, split: Split) -> Harness:
        """Return the tasks of lm-eval that supply a split's documents; there are some."""
        harness = self.tasks_of(split).harness
        assert harness is not None
        return harness

    def prepare(
        self,
        model: Any,
        tokenizer: Any,
        splits: Mapping[Split, Documents],
        deepest: Callable[[], Any] | None = None,
    ) -> None:
        """Set the documents, and choose the fastest way to run models that gives right results.

        A few documents are scored in different ways on `model`: one of the architecture that will
        be scored, on its device, with meaningful weights (those of a parent). A vLLM engine is made
        for a model as deep as the deepest one, which `deepest` returns; its weights do not matter.

        Raises:
            ConfigError: a task needs longer inputs than the model can read, or a document has no
                reference answer.
        """
        self.tokenizer, self.splits = tokenizer, splits
        self._requests, self._references, self.is_touched = {}, {}, False
        if not any(self._asked(split, of_split) for split, of_split in splits.items()):
            return
        sees = any(t.shows_images for s in splits for t in self.tasks_of(s).info.tasks.values())
        reference = ReferenceLM(model, tokenizer, self.reasoning, sees=sees)
        self.forward = self.batched = Forward(model, tokenizer, reference, self.batch_size)
        if self.backend == "vllm":
            self._engine = self._engine or VllmEngine(
                deepest() if deepest else model, tokenizer, self.tensor_parallel
            )
            self.forward = EngineForward(self.batched, self._engine)
        first, documents = next(iter(splits.items()))
        tasks = self._asked(first, documents)
        asked = [list(self.requests(first, task).values()) for task in tasks]
        written = [self._written(first, task, self.requests(first, task)) for task in tasks]
        self.forward.check(model, [*asked, *filter(None, written)])

    def _asked(self, split: Split, tasks: Iterable[str]) -> list[str]:
        """Return the tasks of lm-eval, which ask a model for its answers."""
        return [task for task in tasks if task not in self.tasks_of(split).functions]

    def set_callbacks(
        self,
        rebuild: Callable[[], Any] | None,
        scoring_context: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Set what is called while the next model is scored.

        `rebuild` returns the model, built again after a function has had it, and clears
        `is_touched`; without it, the model is used as it is. `scoring_context` returns what is
        entered while lm-eval's tasks score the model.
        """
        self._rebuild, self._scoring_context = rebuild, scoring_context

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model of `prepare`, and to a vLLM engine if that is wanted."""
        self.forward = self.batched = None
        if engine:
            self._engine = None

    @property
    def oom_backoffs(self) -> int:
        """How often the batch limits were halved because memory ran out."""
        return 0 if self.batched is None else self.batched.oom_backoffs

    def halve_batches(self, oom_backoffs: int) -> None:
        """Halve the batch limits until they have been halved `oom_backoffs` times or more."""
        if self.batched is not None:
            self.batched.halve(oom_backoffs)

    def score(
        self, model: Any, split: Split = "search", documents: Documents | None = None
    ) -> Scores:
        """Return the scores of a model on a split, or on some of its documents.

        Raises:
            CandidateError: the model cannot be run on them.
        """
        began = time.perf_counter()
        answers = self.answer(model, split, documents)
        scores = answers.scores(self.tasks_of(split), time.perf_counter() - began)
        own = {f"{MODEL}/{name}": float(PROPERTIES[name](model)) for name in self.properties}
        return replace(scores, aggregates={**scores.aggregates, **own})

    def try_out(self, model: Any, *, functions: bool = False) -> None:
        """Score a model without a result: on a few documents of lm-eval's tasks, or one of others.

        Raises:
            CandidateError: a function raises an exception, or returns something other than scores.
        """
        split, documents = next(iter(self.splits.items()))
        others, count = self.tasks_of(split).functions, 1 if functions else _FEW
        chosen = {t: ids for t, ids in documents.items() if (t in others) == functions}
        self.answer(model, split, {task: sorted(ids)[:count] for task, ids in chosen.items()})

    def answer(
        self, model: Any, split: Split = "search", documents: Documents | None = None
    ) -> Answers:
        """Return the metrics of a model on single documents: all of a split, or some.

        Raises:
            CandidateError: the model cannot be run on them.
        """
        chosen = documents if documents is not None else self.splits[split]
        asked = {task: tuple(sorted(ids)) for task, ids in chosen.items() if len(ids)}
        of_model = {task: asked[task] for task in self._asked(split, asked)}
        rows: dict[str, dict[int, DocumentMetrics]] = {}
        try:
            if of_model:
                model = self._fresh(model)
                requests = [self.requests(split, t)[i] for t, ids in of_model.items() for i in ids]
                for task, ids in of_model.items():
                    requests += self._written(split, task, ids)
                assert self.forward is not None
                with self._scoring_context(model):
                    self.forward(model, (split, tuple(of_model.items())), requests)
                rows = {task: self._measured(split, task, ids) for task, ids in of_model.items()}
            for task in (task for task in asked if task not in of_model):
                model, function = self._fresh(model), self.tasks_of(split).functions[task]
                self.is_touched = self.is_touched or isinstance(function, ObjectiveFunction)
                columns = function(model, self.tokenizer, asked[task])
                lines = zip(*columns.values(), strict=True)
                metrics = (dict(zip(columns, line, strict=True)) for line in lines)
                rows[task] = dict(zip(asked[task], metrics, strict=True))
        except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
            if is_device_failure(error):
                raise  # any other of these may come from a broken model
            raise CandidateError(f"The model could not be scored: {one_line(error)}") from error
        return Answers({task: rows[task] for task in asked})

    def _measured(self, split: Split, task: str, ids: Sequence[int]) -> dict[int, DocumentMetrics]:
        """Return the metrics of documents of a task of lm-eval, from the latest answers."""
        requests = self.requests(split, task)
        answered = {document: [item.instance for item in requests[document]] for document in ids}
        self._answered.setdefault((split, task), {}).update(answered)
        measured = self.harness_of(split).measure(task, list(answered.values()))
        rows = dict(zip(ids, measured, strict=True))
        for document, row in rows.items():
            if task in self.counted:
                counts = [count for item in requests[document] for count in item.generated]
                row[TOKENS] = sum(counts) / len(counts)
            if task in self.referenced:
                row[NLL] = nll(self.references(split, task)[document])
        return rows

    def _fresh(self, model: Any) -> Any:
        """Return the model to score, built again if a function of a user has had it."""
        return self._rebuild() if self.is_touched and self._rebuild is not None else model

    def examples(self, scores: Scores, split: Split, count: int) -> tuple[Example, ...]:
        """Return `count` of the documents of each task that were scored last, with the answers.

        Functions have no prompts to show.
        """
        harness, functions = self.tasks_of(split).harness, self.tasks_of(split).functions
        if harness is None:
            return ()
        found = []
        for task, ids in scores.documents.items():
            for place, document in enumerate(ids[:count] if task not in functions else ()):
                values = {key: column[place] for key, column in scores.of_task(task).items()}
                answered = self._answered[split, task][document]
                found.append(example(harness.tasks[task], task, document, answered, values))
        return tuple(found)

    def texts(self, split: Split, task: str, documents: Sequence[int]) -> dict[int, str]:
        """Return the latest answers to documents that a model generates answers to."""
        answered = self._answered[split, task]
        return {document: plain(str(answered[document][0].resps[0])) for document in documents}

    def requests(self, split: Split, task: str) -> dict[int, list[Request]]:
        """Return document id -> requests of a task; they are built in the first call and kept."""
        if (split, task) not in self._requests:
            assert self.batched is not None
            reference, ids = self.batched.reference, sorted(self.splits[split][task])
            built = self.harness_of(split).build(task, ids, reference)
            source = f"{self.seed}/{self.tasks_of(split).info.tasks[task].source}"
            self._requests[split, task] = {
                document: [reference.request(item, f"{source}/{document}") for item in items]
                for document, items in zip(ids, built, strict=True)
            }
        return self._requests[split, task]

    def references(self, split: Split, task: str) -> dict[int, list[Request]]:
        """Return document id -> requests for its reference answer; see `nll.of_reference`."""
        if (split, task) not in self._references:
            assert self.batched is not None
            harness, documents = self.harness_of(split), self.requests(split, task)
            found = of_reference(harness, self.batched.reference, task, documents)
            self._references[split, task] = found
        return self._references[split, task]

    def _written(self, split: Split, task: str, ids: Iterable[int]) -> list[list[Request]]:
        """Return the requests for the reference answers of documents that are not their own."""
        kind = self.tasks_of(split).info.tasks[task].kind
        if task not in self.referenced or kind != "generate_until":
            return []
        return [self.references(split, task)[document] for document in ids]


def score_single(
    evaluator: Evaluator,
    load: Callable[[], tuple[Any, Any]],
    split: Split,
    documents: Documents,
    *,
    examples: int = 0,
    ready: Callable[[Any], object] = lambda model: None,
) -> Scores:
    """Return the scores of a model with its own config, tokenizer and chat template.

    `load` returns the model and its tokenizer; `ready` is called with the model before it is
    scored; `examples` documents of each task come with the scores. Afterwards the evaluator holds
    this model; call `prepare` before it scores another one.

    Raises:
        InputError: the model or the tokenizer cannot be loaded, or the tasks not be used with them.
        CandidateError: the model cannot be run on the documents.
    """

    def make() -> Any:
        evaluator.release(engine=True)
        model, tokenizer = load()
        evaluator.prepare(model, tokenizer, {split: documents})
        return model

    loaded = make()
    ready(loaded)
    evaluator.set_callbacks(make)
    scores = evaluator.score(loaded, split)
    shown = evaluator.examples(scores, split, examples)
    return replace(scores, oom_backoffs=evaluator.oom_backoffs, examples=shown)
