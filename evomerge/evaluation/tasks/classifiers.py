"""What models with a classification head are scored on: rows of a file, and metrics of the logits.

Each row is a document:

    labels    {"text": "...", "label": "..."}, with "text_pair" for a pair of texts
    pairwise  {"chosen": "...", "rejected": "..."}, with "prompt" if wanted

A label is a name of the model's `id2label`, or its number there. See also `rows.py`.
Models run as transformers runs them one by one, on texts of about one length together, padded on
the right.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from evomerge.errors import CandidateError, CheckpointError, ConfigError, did_you_mean, one_line
from evomerge.evaluation.inference.batches import batching
from evomerge.evaluation.tasks.objective import Measured, Merges
from evomerge.evaluation.tasks.rows import VALUES, BatchSize, Columns, Row, RowsObjective
from evomerge.models.heads import class_of, classified, in_words, is_reordered, labels_of

Names: TypeAlias = Mapping[int, str]  # of labels, a model's `id2label`

_NO_LIMIT = 2**30  # tokens of an input, where neither model nor tokenizer has a limit


@dataclass(frozen=True)
class Input:
    """What a model reads at once: a text, or a pair of texts.

    No special token is added to a chat, which a chat template has written.
    """

    texts: tuple[str, ...]
    is_chat: bool = False

    def tokens(self, tokenizer: Any, longest: int = _NO_LIMIT) -> Mapping[str, list[int]]:
        """Return the columns that a tokenizer makes of it, cut to the `longest` tokens."""
        options = {"add_special_tokens": not self.is_chat, "max_length": longest}
        columns: Mapping[str, list[int]] = tokenizer(*self.texts, truncation=True, **options)
        return columns


Batches: TypeAlias = Sequence[tuple[Sequence[Input], Mapping[str, Tensor]]]
"""The inputs of each batch, and their columns, padded on the right."""


@torch.inference_mode()
def classify(model: Any, batches: Batches) -> dict[Input, Tensor]:
    """Return the logits of each input, float32 [labels], on the CPU.

    Raises:
        CandidateError: a logit is not finite.
    """
    parameters = inspect.signature(model.forward).parameters
    options = {"use_cache": False} if "use_cache" in parameters else {}
    logits_of: dict[Input, Tensor] = {}
    for items, batch in batches:
        columns = {
            name: item.to(model.device) for name, item in batch.items() if name in parameters
        }
        logits = model(**columns, **options).logits.float().cpu()
        if not logits.isfinite().all():
            raise CandidateError("The model's logits are not finite numbers.")
        logits_of |= dict(zip(items, logits, strict=True))
    return logits_of


def batches_of(
    model: Any, tokenizer: Any, inputs: Iterable[Input], batch_size: BatchSize = "auto"
) -> Batches:
    """Return the batches of the different inputs, each of at most `batch_size` rows."""
    distinct = list(dict.fromkeys(inputs))
    longest, limits = _longest_input(model, tokenizer), batching(model, batch_size)
    config, pad = model.config, getattr(model.config.get_text_config(), "pad_token_id", None)
    # transformers finds the last token of a text by the token of padding. XLNet reads what is at
    # the end of the row. A head behind two stacks wants as many end tokens in all texts of a batch.
    reads_end = getattr(config, "summary_type", "") == "last"
    if config.is_encoder_decoder or pad is None or reads_end:
        limits = replace(limits, rows=1)
    rows = [item.tokens(tokenizer, longest) for item in distinct]
    fill = {"input_ids": pad or 0, "token_type_ids": tokenizer.pad_token_type_id}
    batches = []
    for group in limits.cut([len(row["input_ids"]) for row in rows]):
        columns = {
            name: [torch.tensor(rows[place][name]) for place in group] for name in rows[group[0]]
        }
        batch = {
            name: pad_sequence(column, batch_first=True, padding_value=fill.get(name, 0))
            for name, column in columns.items()
        }
        batches.append(([distinct[place] for place in group], batch))
    return batches


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Return the largest number of tokens that model and tokenizer allow; longer inputs are cut."""
    rows = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    limit = rows if isinstance(rows, int) and rows > 0 else _NO_LIMIT
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:  # of RoBERTa: positions begin behind it
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return int(min(limit, tokenizer.model_max_length, _NO_LIMIT))


class ClassifierObjective(RowsObjective):
    """A kind of objective of models with a classification head."""

    is_foreign, uses_templates = False, False
    is_reward: ClassVar[bool] = False
    """Whether the head must have one output, else labels of which it chooses one."""

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        super().__init__(name, rows, digest, batch_size)
        self._made_for = tuple[Any, ...]()
        self._read: list[tuple[Input, ...]] = []  # what the model reads of each document
        self._batches: Batches = ()

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return what a model has on documents; CandidateError: a logit is not finite."""
        rows = [self.rows[i] for i in documents]
        if self._made_for != (tokenizer, *documents):
            self._made_for = tokenizer, *documents
            self._read = [self._inputs(row, tokenizer) for row in rows]
            inputs = [item for of_row in self._read for item in of_row]
            self._batches = batches_of(model, tokenizer, inputs, self.batch_size)
        logits = classify(model, self._batches)
        metrics = [
            self._measured(row, [logits[item] for item in of_row], model.config.id2label)
            for row, of_row in zip(rows, self._read, strict=True)
        ]
        return {metric: tuple(item[metric] for item in metrics) for metric in self.metrics}

    def check(self, merges: Merges) -> None:
        """Check that models have the head and the labels of the rows, and read their texts.

        CheckpointError: the host has another head, or none; ConfigError: it has no such label, a
        label is a number that means several, or the tokenizer makes no tokens of a text, has no
        chat template or refuses messages.
        """
        host = merges.host
        labels = labels_of(host) if classified(host) == "texts" else ()
        problem = host.config.get("problem_type")
        several = problem in ("multi_label_classification", "regression") and not self.is_reward
        if not labels or several or self.is_reward != (len(labels) == 1):
            one = "one output (a reward model)"
            need = one if self.is_reward else "labels of which it chooses one"
            raise CheckpointError(
                f"Parent {host.reference!r} is a {class_of(host)} with {len(labels)} outputs "
                f"(problem_type {problem}), but {self.task.name} needs a class that ends in "
                f"ForSequenceClassification with {need}; name such a host with `space.host`."
            )
        reordered = [item.reference for item in merges.parents if is_reordered(host, item)]
        for number, row in enumerate(self.rows, start=1):
            label, where = row.get("label"), f"objectives: row {number} of {self.task.name} has"
            known = labels if isinstance(label, str) else range(len(labels))
            if label is not None and label not in known:
                raise ConfigError(
                    f"{where} the label {label!r}, and the labels of {host.reference!r} are "
                    f"{in_words(labels)}; write one of them, or its number from 0."
                    f"{did_you_mean(str(label), labels)}"
                )
            if isinstance(label, int) and reordered:
                raise ConfigError(
                    f"{where} the label {label!r}, but {host.reference!r} and {reordered[0]!r} "
                    "have their labels in different orders; write the names of labels."
                )
            if merges.tokenizer is not None:
                self._check_text(row, merges.tokenizer, where, host.reference)

    def _check_text(self, row: Row, tokenizer: Any, where: str, host: str) -> None:
        try:
            inputs = self._inputs(row, tokenizer)
        except Exception as error:  # a chat template may raise anything
            raise ConfigError(
                f"{where} messages that the tokenizer of {host!r} cannot write "
                f"({one_line(error).rstrip('.')}); give a chat template for them, or write texts."
            ) from error
        if not all(item.tokens(tokenizer)["input_ids"] for item in inputs):
            raise ConfigError(
                f"{where} a text of which the tokenizer of {host!r} makes no tokens; write a text, "
                "or leave the row out."
            )

    @abstractmethod
    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        """Return what the model reads of a row."""

    @abstractmethod
    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        """Return metric -> value of a document, of the logits of its inputs."""


class TextLabels(ClassifierObjective):
    """Texts, or pairs of texts, whose right label shall have the largest logit."""

    needed, compared = ("text", "label"), ("text", "text_pair")
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
        answers, right = Counter(one for one, _ in values), Counter(other for _, other in values)
        both = Counter(one for one, other in values if one == other)
        labels = sorted({*answers, *right})
        each = [2 * both[label] / (answers[label] + right[label]) for label in labels]
        return super().aggregate(metric, each)

    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        return (Input(tuple(row[key] for key in ("text", "text_pair") if key in row)),)

    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        label, answer = row["label"], names[int(logits[0].argmax())]
        right = label if isinstance(label, str) else names[label]
        return {"accuracy": float(answer == right), "f1": (answer, right)}


def _text_or_messages(value: Any, where: str) -> str | Sequence[Mapping[str, Any]]:
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

    needed, metrics, uses_templates = ("chosen", "rejected"), ("pairwise",), True
    is_reward = True
    compared = ("prompt", "chosen", "rejected")
    columns: ClassVar[Columns] = dict.fromkeys(compared, _text_or_messages)
    row_text = '{"prompt": "...", "chosen": "...", "rejected": "..."}, the first if wanted'

    @classmethod
    def checked(cls, row: Row, kind: str, where: str) -> Row:
        """Return a row whose columns are all texts, or all lists of messages."""
        texts = {isinstance(row[k], str): k for k in cls.compared if row.get(k) is not None}
        if len(texts) == 2 and all(row.get(key) is not None for key in cls.needed):
            raise ConfigError(
                f"objectives: {where} has a text in `{texts[True]}` and messages in "
                f"`{texts[False]}`; write all as texts, or all as lists of messages."
            )
        return super().checked(row, kind, where)

    def _inputs(self, row: Row, tokenizer: Any) -> tuple[Input, ...]:
        answers = row["chosen"], row["rejected"]
        if not isinstance(answers[0], str):
            chats = ([*row.get("prompt", ()), *answer] for answer in answers)
            texts = (tokenizer.apply_chat_template(chat, tokenize=False) for chat in chats)
            return tuple(Input((text,), is_chat=True) for text in texts)
        prompt = row.get("prompt", "")
        if prompt and tokenizer.sep_token is not None:  # it separates two texts
            return tuple(Input((prompt, answer)) for answer in answers)
        return tuple(Input((prompt + answer,)) for answer in answers)

    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        chosen, rejected = (float(item) for item in logits)
        return {"pairwise": 0.5 if chosen == rejected else float(chosen > rejected)}
