"""Scoring many models on the same documents, and their scores from the metrics of documents."""

import re
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

from evomerge.device import is_device_failure, is_exhausted
from evomerge.errors import CandidateError, EvomergeError, one_line
from evomerge.evaluation.tasks.base_texts import BaseTexts
from evomerge.evaluation.tasks.info import TasksInfo
from evomerge.evaluation.tasks.objective import DocumentMetrics, Documents, Merges, Objective
from evomerge.scores import MODEL, Example, Scores, Split

_FEW = 8  # documents of each task in `try_out`
_IN_A_LIST = re.compile(r"\.\d+\.")


@dataclass(frozen=True)
class TaskSet:
    """The objectives that supply the documents of a split."""

    objectives: Sequence[Objective]

    @cached_property
    def info(self) -> TasksInfo:
        """Documents and metrics of all tasks and groups."""
        tasks = {name: it for item in self.objectives for name, it in item.info.tasks.items()}
        groups = {name: it for item in self.objectives for name, it in item.info.groups.items()}
        return TasksInfo(tasks, groups)

    def of(self, task: str) -> Objective:
        """Return the objective that has a task or group."""
        having = (i for i in self.objectives if task in i.info.tasks or task in i.info.groups)
        return next(having)


@dataclass(frozen=True)
class Answers:
    """The metrics of a model on single documents: task -> document id -> metric key -> value."""

    rows: Mapping[str, Mapping[int, DocumentMetrics]]

    def __or__(self, other: Self) -> Self:
        """Return the metrics of the documents of both; for common documents, those of `other`."""
        tasks = [*self.rows, *(task for task in other.rows if task not in self.rows)]
        rows = {t: {**self.rows.get(t, {}), **other.rows.get(t, {})} for t in tasks}
        return replace(self, rows=rows)

    def scores(self, tasks: TaskSet, seconds: float) -> Scores:
        """Return the scores: the metrics, and their aggregates by task and group."""
        values: dict[str, tuple[float, ...]] = {}
        aggregates: dict[str, Mapping[str, float]] = {}
        documents = {task: tuple(sorted(rows)) for task, rows in self.rows.items()}
        for task, ids in documents.items():
            rows = [self.rows[task][i] for i in ids]
            columns, aggregates[task] = tasks.of(task).summary(task, rows)
            values |= {f"{task}/{key}": items for key, items in columns.items()}
        sizes = {task: len(ids) for task, ids in documents.items()}
        if tasks.info.groups:
            aggregates |= tasks.info.aggregate_groups(aggregates, sizes)
        flat = {
            f"{task}/{key}": v for task, figures in aggregates.items() for key, v in figures.items()
        }
        return Scores(documents, values, flat, {"evaluate": seconds})


class Evaluator:
    """Scores models on the documents of a search.

    Call `prepare` once, then `score` for each candidate. A model has the same scores on the same
    documents every time, bit for bit.

    Code of others may change the weights. So with a way to build the model again (`set_callbacks`),
    it is built again before anything else is scored.

    Args:
        objectives: what is measured.
        by_split: the objectives of each split whose documents come from other tasks, by the names
            of the tasks that they replace.
        properties: the properties of models that come with their scores (`MODEL_METRICS`).
    """

    def __init__(
        self,
        objectives: Sequence[Objective],
        by_split: Mapping[Split, Sequence[Objective]] | None = None,
        properties: Collection[str] = (),
    ) -> None:
        self.default, self.properties = TaskSet(objectives), properties
        self.by_split = {split: TaskSet(of_split) for split, of_split in (by_split or {}).items()}
        self._is_touched = False
        self.set_callbacks(None)

    @property
    def info(self) -> TasksInfo:
        """Documents and metrics of the tasks that the search file names."""
        return self.default.info

    @property
    def every(self) -> list[Objective]:
        """All objectives, each once."""
        sets = (self.default, *self.by_split.values())
        return list(dict.fromkeys(item for tasks in sets for item in tasks.objectives))

    def tasks_of(self, split: Split) -> TaskSet:
        """Return the objectives that supply a split's documents."""
        return self.by_split.get(split, self.default)

    def give_texts(self, texts: Sequence[Any]) -> None:
        """Set the texts of the base that are scored next."""
        for objective in self.every:
            if isinstance(objective, BaseTexts):
                objective.written = texts

    def check(self, merges: Merges, splits: Mapping[Split, Documents]) -> None:
        """Raise an `InputError` unless models can be measured, on the documents of all splits."""
        for objective in self.every:
            objective.check(merges)
        for split, documents in splits.items():
            for objective in self.tasks_of(split).objectives:
                objective.check_documents(documents, split)

    def words(self, merges: Merges) -> dict[str, Any]:
        """Return rows of `evomerge validate`: name -> text."""
        pairs = (pair for item in self.every for pair in item.words(merges).items())
        return {key: text for key, text in pairs if text is not None}

    def prepare(
        self,
        model: Any,
        tokenizer: Any,
        splits: Mapping[Split, Documents],
        deepest: Callable[[], Any] | None = None,
    ) -> None:
        """Set the documents, and let objectives get ready to score models like this one.

        Raises:
            ConfigError: a task needs longer inputs than the model can read, or a document has no
                reference answer.
        """
        self.tokenizer, self.splits, self._is_touched = tokenizer, splits, False
        self.release()
        served: dict[Objective, list[Documents]] = {}
        for split, documents in splits.items():
            for objective in self.tasks_of(split).objectives:
                served.setdefault(objective, []).append(documents)
        for objective, of_splits in served.items():
            objective.prepare(model, tokenizer, of_splits, deepest or (lambda: model))

    def set_callbacks(
        self,
        rebuild: Callable[[], Any] | None,
        scoring_context: Callable[[Any], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        """Set what is called while the next model is scored.

        `rebuild` returns the model, built again after code of others has had it, and calls
        `forget_touch`; without it, the model is used as it is. `scoring_context` returns what is
        entered while our own code scores the model.
        """
        self._rebuild, self._scoring_context = rebuild, scoring_context

    def touch(self) -> None:
        """Note that code of others gets the model and may change its weights."""
        self._is_touched = True

    def forget_touch(self) -> bool:
        """Return whether code of others had the model since the last call: build it again then."""
        was_touched, self._is_touched = self._is_touched, False
        return was_touched

    def release(self, *, engine: bool = False) -> None:
        """Drop the references to the model of `prepare`, and to an engine if that is wanted."""
        for objective in self.every:
            objective.release(engine=engine)

    @property
    def oom_backoffs(self) -> int:
        """How often the batch limits were halved because memory ran out."""
        return max((item.oom_backoffs for item in self.every), default=0)

    def halve_batches(self, oom_backoffs: int) -> None:
        """Halve the batch limits until they have been halved `oom_backoffs` times or more."""
        for objective in self.every:
            objective.halve_batches(oom_backoffs)

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
        properties = {f"{MODEL}/{name}": float(PROPERTIES[name](model)) for name in self.properties}
        return replace(scores, aggregates={**scores.aggregates, **properties})

    def try_out(self, model: Any, *, foreign: bool = False) -> None:
        """Score a model without a result: on a few documents; by code of others, on one.

        Raises:
            CandidateError: the code raises an exception, or returns something other than scores.
        """
        split, documents = next(iter(self.splits.items()))
        tasks, count = self.tasks_of(split), 1 if foreign else _FEW
        chosen = {t: ids for t, ids in documents.items() if tasks.of(t).is_foreign == foreign}
        self.answer(model, split, {task: sorted(ids)[:count] for task, ids in chosen.items()})

    def answer(
        self, model: Any, split: Split = "search", documents: Documents | None = None
    ) -> Answers:
        """Return the metrics of a model on single documents: all of a split, or some.

        Raises:
            CandidateError: the model cannot be run on them.
        """
        chosen = documents if documents is not None else self.splits[split]
        wanted = {task: tuple(sorted(ids)) for task, ids in chosen.items() if len(ids)}
        rows: dict[str, dict[int, DocumentMetrics]] = {}
        try:
            for objective in self.tasks_of(split).objectives:
                part = {task: ids for task, ids in wanted.items() if task in objective.info.tasks}
                if not part:
                    continue
                if self._is_touched and self._rebuild is not None:
                    model = self._rebuild()
                self._is_touched |= objective.is_foreign
                context = nullcontext if objective.is_foreign else self._scoring_context
                with context(model):
                    metrics = objective.score(model, self.tokenizer, part)
                rows |= {t: dict(zip(ids, metrics[t], strict=True)) for t, ids in part.items()}
        except (RuntimeError, ValueError, IndexError, ArithmeticError) as error:
            if is_device_failure(error):
                raise  # any other of these may come from a broken model
            raise CandidateError(f"The model could not be scored: {one_line(error)}") from error
        return Answers({task: rows[task] for task in wanted})

    def examples(self, scores: Scores, split: Split, count: int) -> tuple[Example, ...]:
        """Return `count` of the documents of each task that were scored last, with the answers."""
        tasks, examples = self.tasks_of(split), list[Example | None]()
        for task, ids in scores.documents.items() if count else ():
            columns = scores.of_task(task)
            for place, document in enumerate(ids[:count]):
                values = {key: column[place] for key, column in columns.items()}
                examples.append(tasks.of(task).example(task, document, values))
        return tuple(filter(None, examples))

    def prompts(
        self, model: Any, tokenizer: Any, split: Split, documents: Documents, count: int
    ) -> list[Example]:
        """Return `count` documents of each task of a split as models get them; nothing is scored.

        Of the model, only the configs are read.
        """
        tasks, prompts = self.tasks_of(split), list[Example]()
        for objective in tasks.objectives:
            own = {task: ids for task, ids in documents.items() if tasks.of(task) is objective}
            prompts += objective.prompts(model, tokenizer, own, count)
        return prompts


def _parameters(model: Any) -> int:
    """Return the number of parameters of the model's checkpoint.

    A weight that is used in two places, such as embeddings that are the head too, counts once.
    Blocks of a path that come from the same layer count each, since a checkpoint has each of them.
    """
    named = model.named_parameters(remove_duplicate=False)
    counts = {name if _IN_A_LIST.search(name) else id(p): p.numel() for name, p in named}
    return sum(counts.values())


PROPERTIES: Mapping[str, Callable[[Any], int]] = {
    "parameters": _parameters,
    "layers": lambda model: int(model.config.get_text_config().num_hidden_layers),
}
"""Those of a merged model itself, which objectives and constraints may name."""


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
        CandidateError: the model cannot be run on the documents, or code of a task raised an error.
    """

    def make() -> Any:
        evaluator.release(engine=True)
        model, tokenizer = load()
        evaluator.prepare(model, tokenizer, {split: documents})
        return model

    try:
        loaded = make()
        ready(loaded)
        evaluator.set_callbacks(make)
        scores = evaluator.score(loaded, split)
        scored_documents = evaluator.examples(scores, split, examples)
    except (EvomergeError, OSError):
        raise
    except Exception as error:  # a metric of lm-eval raises anything
        if is_device_failure(error) or is_exhausted(error):
            raise
        raise CandidateError(
            f"The model could not be scored on the {split} documents ({type(error).__name__}: "
            f"{one_line(error).rstrip('.')}); see whether the task can be used with them "
            "(--debug shows the traceback)."
        ) from error
    return replace(scores, oom_backoffs=evaluator.oom_backoffs, examples=scored_documents)
