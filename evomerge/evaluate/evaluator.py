"""Scoring of one model after another on documents that were prepared once."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from evomerge.errors import CandidateError
from evomerge.evaluate.facts import Facts
from evomerge.evaluate.forward import Forward
from evomerge.evaluate.functions import Function
from evomerge.evaluate.harness import Harness, Stock
from evomerge.evaluate.request import Request
from evomerge.scores import Scores, Split

Documents: TypeAlias = Mapping[str, Sequence[int]]


class Evaluator:
    """Scores models on the documents of a search.

    Call `prepare` once, then `score` for each candidate. For one model and one choice of documents
    the scores are the same bits every time, whatever was scored before.

    Args:
        harness: the lm-eval tasks, None where there are own functions only.
        functions: own objectives.
        batch_size: most rows in a batch, or `auto`: as many as the memory of the device allows.
    """

    def __init__(
        self,
        harness: Harness | None,
        functions: Sequence[Function] = (),
        batch_size: int | Literal["auto"] = "auto",
    ) -> None:
        self.harness = harness
        self.functions = {function.facts.name: function for function in functions}
        self.batch_size = batch_size
        self.sheets: dict[tuple[Split, str], dict[int, list[Request]]] = {}

    @property
    def facts(self) -> Facts:
        """What the tasks and functions offer."""
        known = self.harness.facts if self.harness else Facts({}, {})
        own = {name: function.facts for name, function in self.functions.items()}
        return Facts({**known.tasks, **own}, known.groups)

    def prepare(self, model: Any, tokenizer: Any, splits: Mapping[Split, Documents]) -> None:
        """Build the prompts and tokens of all documents, and find the fastest right way to run.

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
        stock = Stock(model, tokenizer)
        for split, documents in splits.items():
            for task, ids in documents.items():
                if task not in self.functions:
                    self.sheets[split, task] = self._build(task, sorted(ids), stock)
        everything = [sheet for sheets in self.sheets.values() for sheet in sheets.values()]
        self.forward = Forward(model, tokenizer, stock, self.batch_size)
        self.forward.check(model, everything)

    def score(
        self, model: Any, split: Split = "search", documents: Documents | None = None
    ) -> Scores:
        """Return a model's scores on a split, or on some of its documents.

        Raises:
            CandidateError: the model cannot be run on them.
        """
        began = time.perf_counter()
        chosen = documents if documents is not None else self.splits[split]
        asked = {task: tuple(sorted(ids)) for task, ids in chosen.items() if len(ids)}
        sheets = {
            task: [self.sheets[split, task][i] for i in ids]
            for task, ids in asked.items()
            if task not in self.functions
        }
        self._answer(model, split, asked, sheets)
        values: dict[str, tuple[float, ...]] = {}
        aggregates: dict[str, dict[str, float]] = {}
        for task, requests in sheets.items():
            assert self.harness is not None
            raw = self.harness.measure(task, [[r.instance for r in sheet] for sheet in requests])
            aggregates[task] = self.harness.aggregate(task, raw)
            for key, items in raw.items():
                figures = [self.harness.per_document(task, key, item) for item in items]
                if None not in figures and len(figures) == len(asked[task]):
                    values[f"{task}/{key}"] = tuple(f for f in figures if f is not None)
        for task in asked.keys() & self.functions.keys():
            results = self.functions[task](model, self.tokenizer, asked[task])
            values |= {f"{task}/{metric}": items for metric, items in results.items()}
            aggregates[task] = {key: sum(items) / len(items) for key, items in results.items()}
        if self.harness is not None:
            sizes = {task: len(ids) for task, ids in asked.items()}
            aggregates |= self.harness.aggregate_groups(aggregates, sizes)
        return Scores(
            documents=asked,
            values=values,
            aggregates={
                f"{task}/{key}": value
                for task, figures in aggregates.items()
                for key, value in figures.items()
            },
            seconds={"evaluate": time.perf_counter() - began},
        )

    def _build(self, task: str, ids: Sequence[int], stock: Stock) -> dict[int, list[Request]]:
        assert self.harness is not None
        sheets = self.harness.build(task, ids, stock)
        return {
            document: [stock.request(instance) for instance in instances]
            for document, instances in zip(ids, sheets, strict=True)
        }

    def _answer(
        self,
        model: Any,
        split: Split,
        asked: Mapping[str, tuple[int, ...]],
        sheets: Mapping[str, Sequence[Sequence[Request]]],
    ) -> None:
        """Put the model's answers into the instances."""
        documents = [sheet for task_sheets in sheets.values() for sheet in task_sheets]
        if not documents:
            return
        try:
            self.forward(model, (split, tuple(asked.items())), documents)
        except (RuntimeError, ValueError, IndexError) as error:
            reason = str(error).strip().splitlines() or [type(error).__name__]
            raise CandidateError(f"The model could not be run: {reason[0]}") from error
