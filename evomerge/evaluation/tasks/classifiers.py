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
from typing import Any, ClassVar, TypeAlias

from torch import Tensor

from evomerge.errors import ConfigError
from evomerge.evaluation.inference.classifying import Batches, Chat, Input, batches_of, classify
from evomerge.evaluation.tasks.rows import VALUES, BatchSize, Columns, Measured, Row, RowsObjective

Label: TypeAlias = str | int
Names: TypeAlias = Mapping[int, str]  # of labels, a model's `id2label`


class ClassifierObjective(RowsObjective):
    """A kind of objective of models with a classification head."""

    model = "classifier"
    metrics: tuple[str, ...]

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        super().__init__(name, rows, digest, self.metrics)
        self._batch_size, self._made_for = batch_size, tuple[Any, ...]()
        self._read: list[tuple[Input, ...]] = []  # what the model reads of each document
        self._batches: Batches = ()

    def __call__(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return what a model has on documents; CandidateError: a logit is not finite."""
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
        return ((i, row["label"]) for i, row in enumerate(self.rows) if "label" in row)

    def unread(self, tokenizer: Any) -> Iterator[tuple[int, Exception | None]]:
        """Yield each document of which a tokenizer makes no tokens, and its template's error."""
        for document, row in enumerate(self.rows):
            try:
                inputs = self._inputs(row, tokenizer)
            except Exception as error:  # a chat template may raise anything
                yield document, error
            else:
                if not all(item.tokens(tokenizer)["input_ids"] for item in inputs):
                    yield document, None

    @abstractmethod
    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        """Return what the model reads of a row."""

    @abstractmethod
    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        """Return metric -> value of a document, of the logits of its inputs."""


class TextLabels(ClassifierObjective):
    """Texts, or pairs of texts, whose right label shall have the largest logit."""

    kind, needed, compared = "labels", ("text", "label"), ("text", "text_pair")
    columns: ClassVar[Columns] = {
        "text": VALUES.text,
        "text_pair": VALUES.text,
        "label": VALUES.label,
    }
    metrics, of_all = ("accuracy", "f1"), ("f1",)
    row_text = '{"text": "...", "label": "..."}'

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the mean accuracy; or that of the F1 of the labels, as scikit-learn's `macro`."""
        if metric == "accuracy":
            return super().aggregate(metric, values)
        found, right = Counter(one for one, _ in values), Counter(other for _, other in values)
        both = Counter(one for one, other in values if one == other)
        labels = sorted({*found, *right})
        each = [2 * both[label] / (found[label] + right[label]) for label in labels]
        return super().aggregate(metric, each)

    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        return (Input(tuple(row[key] for key in ("text", "text_pair") if key in row)),)

    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        label, found = row["label"], names[int(logits[0].argmax())]
        right = label if isinstance(label, str) else names[label]
        return {"accuracy": float(found == right), "f1": (found, right)}


def _text_or_messages(value: Any, where: str) -> str | Chat:
    """Return a text, or the messages of a chat: each has a role and a content."""
    if isinstance(value, str):
        return VALUES.text(value, where)
    for number, item in enumerate(VALUES.items(value, where, least=1)):
        message = VALUES.mapping(item, f"{where}[{number}]")
        VALUES.text(message.get("role"), f"{where}[{number}].role")
        if not isinstance(message.get("content"), str):
            raise VALUES.wrong(message.get("content"), f"{where}[{number}].content", "text")
    return tuple(value)


class Pairwise(ClassifierObjective):
    """Whether a reward model scores the chosen answer higher; 0.5 where both have one score."""

    kind, needed, metrics = "pairwise", ("chosen", "rejected"), ("pairwise",)
    compared = ("prompt", "chosen", "rejected")
    columns: ClassVar[Columns] = dict.fromkeys(compared, _text_or_messages)
    row_text = '{"prompt": "...", "chosen": "...", "rejected": "..."}, the first if wanted'

    @classmethod
    def checked(cls, row: Row, where: str) -> Row:
        """Return a row whose columns are all texts, or all lists of messages."""
        texts = {isinstance(row[k], str): k for k in cls.compared if row.get(k) is not None}
        if len(texts) == 2 and all(row.get(key) is not None for key in cls.needed):
            raise ConfigError(
                f"objectives: {where} has a text in `{texts[True]}` and messages in "
                f"`{texts[False]}`; write all as texts, or all as lists of messages."
            )
        return super().checked(row, where)

    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        answers = row["chosen"], row["rejected"]
        if not isinstance(answers[0], str):
            chats = ([*row.get("prompt", ()), *answer] for answer in answers)
            return tuple(Input.of_chat(chat, tokenizer) for chat in chats)
        prompt = row.get("prompt", "")
        if prompt and tokenizer.sep_token is not None:  # it separates two texts
            return tuple(Input((prompt, answer)) for answer in answers)
        return tuple(Input((prompt + answer,)) for answer in answers)

    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        chosen, rejected = (float(item) for item in logits)
        return {"pairwise": 0.5 if chosen == rejected else float(chosen > rejected)}


KINDS: tuple[type[ClassifierObjective], ...] = (TextLabels, Pairwise)
