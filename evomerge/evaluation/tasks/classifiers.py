"""What models with a classification head are scored on: rows of a file, and metrics of the logits.

Each row is a document:

    labels    {"text": "...", "label": "..."}, with "text_pair" for a pair of texts
    pairwise  {"chosen": "...", "rejected": "..."}, with "prompt" if wanted

A label is a name of the model's `id2label`, or its number there. See also `rows.py`.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.classifying import (
    Batches,
    Chat,
    Input,
    batches_of,
    classify,
)
from evomerge.evaluation.tasks.rows import VALUES, BatchSize, Row, RowsObjective, text_or_number

Label: TypeAlias = str | int


class ClassifierObjective(RowsObjective):
    """A kind of objective of models with a classification head."""

    model = "classifier"
    metrics: tuple[str, ...]

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        super().__init__(name, rows, digest, self.metrics)
        self._batch_size = batch_size
        self._made_for: tuple[Any, ...] = ()
        self._read: list[tuple[Input, ...]] = []  # what the model reads of each document
        self._batches: Batches = ()

    def __call__(
        self, model: Any, tokenizer: Any, documents: Sequence[int]
    ) -> dict[str, tuple[Any, ...]]:
        """Return metric -> one value for each document, of which `aggregate` makes the score.

        Raises:
            CandidateError: a logit is not finite.
        """
        rows = [self.rows[i] for i in documents]
        if self._made_for != (tokenizer, *documents):
            self._made_for = tokenizer, *documents
            self._read = [self._inputs(row, tokenizer) for row in rows]
            inputs = [item for of_row in self._read for item in of_row]
            self._batches = batches_of(model, tokenizer, inputs, self._batch_size)
        logits = classify(model, self._batches)
        found = [
            self._measured(row, [logits[item] for item in of_row], model.config.id2label)
            for row, of_row in zip(rows, self._read, strict=True)
        ]
        return {metric: tuple(item[metric] for item in found) for metric in self.metrics}

    def labels(self) -> Iterator[tuple[int, Label]]:
        """Yield document and label, for each row that has a label."""
        return iter(())

    def chats(self) -> Iterator[tuple[int, Chat]]:
        """Yield document and messages, for each list of messages that the model reads."""
        return iter(())

    def without_tokens(self, tokenizer: Any) -> Iterator[int]:
        """Yield each document with a text of which a tokenizer makes no tokens."""
        for document, row in enumerate(self.rows):
            inputs = self._inputs(row, tokenizer)
            if not all(item.tokens(tokenizer)["input_ids"] for item in inputs):
                yield document

    @abstractmethod
    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        """Return what the model reads of a row."""

    @abstractmethod
    def _measured(
        self, row: Row, logits: Sequence[Tensor], names: Mapping[int, str]
    ) -> dict[str, Any]:
        """Return metric -> value of a document, of the logits of its inputs."""


class TextLabels(ClassifierObjective):
    """Texts, or pairs of texts, whose right label shall have the largest logit."""

    kind, needed, compared = "labels", ("text", "label"), ("text", "text_pair")
    metrics = ("accuracy", "f1")
    row_text = '{"text": "...", "label": "..."}'

    @staticmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row with one or two texts and a label: a name or a number."""
        texts = [key for key in ("text", "text_pair") if row.get(key) is not None]
        found = {key: VALUES.text(row[key], f"{where}: {key}") for key in texts}
        return {**found, "label": text_or_number(row["label"], f"{where}: label")}

    def is_mean(self, metric: str) -> bool:
        """Return whether it is the accuracy: F1 is one of all documents together."""
        return metric == "accuracy"

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the mean accuracy, or the F1 of all labels, each of the same weight."""
        return super().aggregate(metric, values) if metric == "accuracy" else macro_f1(values)

    def labels(self) -> Iterator[tuple[int, Label]]:
        """Yield document and label, for each row."""
        for document, row in enumerate(self.rows):
            yield document, row["label"]

    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        return (Input(tuple(row[key] for key in ("text", "text_pair") if key in row)),)

    def _measured(
        self, row: Row, logits: Sequence[Tensor], names: Mapping[int, str]
    ) -> dict[str, Any]:
        label, found = row["label"], names[int(logits[0].argmax())]
        right = label if isinstance(label, str) else names[label]
        return {"accuracy": float(found == right), "f1": (found, right)}


class Pairwise(ClassifierObjective):
    """Whether a reward model scores the chosen answer higher; 0.5 where both have one score."""

    kind, needed, metrics = "pairwise", ("chosen", "rejected"), ("pairwise",)
    compared = ("prompt", "chosen", "rejected")
    row_text = '{"prompt": "...", "chosen": "...", "rejected": "..."}, the first if wanted'

    @staticmethod
    def checked(row: Row, where: str) -> Row:
        """Return a row whose columns are all texts, or all lists of messages."""
        keys = [key for key in ("prompt", "chosen", "rejected") if row.get(key) is not None]
        texts = [isinstance(row[key], str) for key in keys]
        if any(texts) and not all(texts):
            raise ConfigError(
                f"objectives: {where} has a text in `{keys[texts.index(True)]}` and messages in "
                f"`{keys[texts.index(False)]}`; write all as texts, or all as lists of messages."
            )
        if all(texts):
            return {key: VALUES.text(row[key], f"{where}: {key}") for key in keys}
        return {key: _messages(row[key], f"{where}: {key}") for key in keys}

    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        if not isinstance(row["chosen"], str):
            return tuple(Input.of_chat(chat, tokenizer) for chat in _chats(row))
        prompt, answers = row.get("prompt", ""), (row["chosen"], row["rejected"])
        if prompt and tokenizer.sep_token is not None:  # it separates two texts
            return tuple(Input((prompt, answer)) for answer in answers)
        return tuple(Input((prompt + answer,)) for answer in answers)

    def chats(self) -> Iterator[tuple[int, Chat]]:
        """Yield document and messages, for each list of messages that the model reads."""
        for document, row in enumerate(self.rows):
            if not isinstance(row["chosen"], str):
                for chat in _chats(row):
                    yield document, chat

    def _measured(
        self, row: Row, logits: Sequence[Tensor], names: Mapping[int, str]
    ) -> dict[str, Any]:
        chosen, rejected = (float(item) for item in logits)
        return {"pairwise": 0.5 if chosen == rejected else float(chosen > rejected)}


KINDS: tuple[type[ClassifierObjective], ...] = (TextLabels, Pairwise)


def macro_f1(pairs: Sequence[tuple[str, str]]) -> float:
    """Return the mean F1 of the labels, of pairs of a found and a right label.

    The labels are those that were found or are right somewhere, as scikit-learn takes them.
    """
    found, right = Counter(one for one, _ in pairs), Counter(other for _, other in pairs)
    both = Counter(one for one, other in pairs if one == other)
    labels = sorted({*found, *right})
    each = [2 * both[label] / (found[label] + right[label]) for label in labels]
    return sum(each) / len(each) if each else 0.0


def _chats(row: Row) -> Iterator[Chat]:
    """Yield the messages of both answers, behind those of the prompt."""
    for key in ("chosen", "rejected"):
        yield [*row.get("prompt", ()), *row[key]]


def _messages(value: Any, where: str) -> Chat:
    """Return the messages of a chat, after checking that each has a role and a content."""
    for number, item in enumerate(VALUES.items(value, where, least=1)):
        message = VALUES.mapping(item, f"{where}[{number}]")
        VALUES.text(message.get("role"), f"{where}[{number}].role")
        if not isinstance(message.get("content"), str):
            raise VALUES.wrong(message.get("content"), f"{where}[{number}].content", "text")
    return tuple(value)
