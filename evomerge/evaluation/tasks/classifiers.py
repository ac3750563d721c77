"""What models with a classification head are scored on: rows of a file, and metrics of the logits.

Each row is a document:

    labels    {"text": "...", "label": "..."}, with "text_pair" for a pair of texts
    pairwise  {"chosen": "...", "rejected": "..."}, with "prompt" if wanted

A label is a name of the model's `id2label`, or its number there. See also `rows.py`.
Models run as transformers runs them one by one, on texts of about one length together, padded on
the right.
"""

import inspect
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from evomerge.config.objectives import ROWS
from evomerge.errors import CandidateError, CheckpointError, ConfigError, blaming, did_you_mean
from evomerge.evaluation.inference.rows import batching
from evomerge.evaluation.tasks.objective import Measured, Merges
from evomerge.evaluation.tasks.rows import ANSWER, VALUES, BatchSize, Columns, Row, RowsObjective
from evomerge.models.heads import class_of, classified, in_words, labels_of
from evomerge.trust.templates import limited_chat_templates

Names: TypeAlias = Mapping[int, str]  # of labels, a model's `id2label`

Input: TypeAlias = tuple[str, ...]
"""What a model reads at once: a text, or a pair of texts."""

Batches: TypeAlias = Sequence[tuple[Sequence[Input], Mapping[str, Tensor]]]
"""The inputs of each batch, and their columns, padded on the right."""

_NO_LIMIT = 2**30  # tokens of an input, where neither model nor tokenizer has a limit


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
    model: Any,
    tokenizer: Any,
    inputs: Iterable[Input],
    batch_size: BatchSize = "auto",
    *,
    are_chats: bool = False,
) -> Batches:
    """Return the batches of the different inputs, each of at most `batch_size` rows.

    No special token is added to chats, which a chat template has written.
    """
    distinct, config = list(dict.fromkeys(inputs)), model.config
    cut = {"truncation": True, "max_length": _longest_input(model, tokenizer)}
    rows = [tokenizer(*item, add_special_tokens=not are_chats, **cut) for item in distinct]
    limits = batching(model, batch_size)
    # transformers finds the last token of a text by the token of padding. XLNet reads what is at
    # the end of the row. A head behind two stacks wants as many end tokens in all texts of a batch.
    pad = getattr(config.get_text_config(), "pad_token_id", None)
    reads_end = config.is_encoder_decoder or getattr(config, "summary_type", "") == "last"
    if reads_end or pad is None or pad != tokenizer.pad_token_id:
        limits = replace(limits, rows=1)
    options = {"padding_side": "right", "return_tensors": "pt"}
    batches = []
    for group in limits.cut([len(row["input_ids"]) for row in rows]):
        columns = tokenizer.pad([rows[place] for place in group], len(group) > 1, **options)
        batches.append(([distinct[place] for place in group], columns))
    return batches


def _longest_input(model: Any, tokenizer: Any) -> int:
    """Return the largest number of tokens that model and tokenizer allow; longer inputs are cut."""
    limit = getattr(model.config.get_text_config(), "max_position_embeddings", None) or _NO_LIMIT
    for name, module in model.named_modules():
        is_table = name.endswith("position_embeddings") and isinstance(module, nn.Embedding)
        if is_table and module.padding_idx is not None:  # of RoBERTa: positions begin behind it
            limit = min(limit, module.num_embeddings - module.padding_idx - 1)
    return int(min(limit if limit > 0 else _NO_LIMIT, tokenizer.model_max_length))


class ClassifierObjective(RowsObjective):
    """A kind of objective of models with a classification head."""

    is_foreign, uses_templates, needs_head = False, False, True
    is_reward: ClassVar[bool] = False
    """Whether the head must have one output, else labels of which it chooses one."""
    are_chats = False
    """Whether rows have messages, which a chat template writes as texts."""

    _made_for: tuple[Any, ...] = ()
    _read: Sequence[Sequence[Input]] = ()  # what the model reads of each document
    _batches: Batches = ()

    def measure(self, model: Any, tokenizer: Any, documents: Sequence[int]) -> Measured:
        """Return what a model has on documents; CandidateError: a logit is not finite."""
        rows = [self.rows[i] for i in documents]
        if self._made_for != (tokenizer, *documents):
            self._made_for = tokenizer, *documents
            self._read = [self._inputs(row, tokenizer) for row in rows]
            inputs = [item for of_row in self._read for item in of_row]
            size, are_chats = self.batch_size, self.are_chats
            self._batches = batches_of(model, tokenizer, inputs, size, are_chats=are_chats)
        logits = classify(model, self._batches)
        metrics = [
            self._measured(row, [logits[item] for item in of_row], model.config.id2label)
            for row, of_row in zip(rows, self._read, strict=True)
        ]
        self.answers.update(zip(documents, (item[ANSWER] for item in metrics), strict=True))
        return {metric: tuple(item[metric] for item in metrics) for metric in self.metrics}

    def check(self, merges: Merges) -> None:
        """Check that models have the head and the labels of the rows, and read their texts.

        CheckpointError: the host has another head, or none; ConfigError: it has no such label, or
        its tokenizer has no chat template or refuses messages.
        """
        host = merges.host
        labels = labels_of(host) if classified(host) == "texts" else ()
        problem = host.config.get("problem_type")
        several = problem in ("multi_label_classification", "regression") and not self.is_reward
        if not labels or several or self.is_reward != (len(labels) == 1):
            one = "one output (a reward model or a cross-encoder)"
            need = one if self.is_reward else "labels of which it chooses one"
            raise CheckpointError(
                f"Parent {host.reference!r} is a {class_of(host)} with {len(labels)} outputs "
                f"(problem_type {problem}), but {self.task.name} needs a class that ends in "
                f"ForSequenceClassification with {need}; name such a host with `space.host`."
            )
        mistakes = list[str]()
        for number, row in enumerate(self.rows, start=1):
            label, where = row.get("label"), f"objectives: row {number} of {self.task.name} has"
            known = labels if isinstance(label, str) else range(len(labels))
            if label is not None and label not in known:
                mistakes.append(
                    f"{where} the label {label!r}, and the labels of {host.reference!r} are "
                    f"{in_words(labels)}; write one of them, or its number from 0."
                    f"{did_you_mean(str(label), labels)}"
                )
            if merges.tokenizer is not None:
                why = (
                    f"{where} messages that the tokenizer of {host.reference!r} cannot write "
                    "({reason}); give a chat template, or write texts."
                )
                with blaming(ConfigError, why):
                    self._inputs(row, merges.tokenizer)
        self._refuse(mistakes, self.task.name)

    @abstractmethod
    def _inputs(self, row: Row, tokenizer: Any) -> Sequence[Input]:
        """Return what the model reads of a row."""

    @abstractmethod
    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        """Return metric -> value of a document, of the logits of its inputs, and its `ANSWER`."""


class TextLabels(ClassifierObjective):
    """Texts, or pairs of texts, whose right label shall have the largest logit."""

    needed, compared = ("text", "label"), ("text", "text_pair")
    columns: ClassVar[Columns] = {
        "text": VALUES.text,
        "text_pair": VALUES.text,
        "label": VALUES.label,
    }
    metrics, of_all = ROWS["labels"].metrics, ("f1",)
    row_text = '{"text": "...", "label": "..."}'

    def aggregate(self, metric: str, values: Sequence[Any]) -> float:
        """Return the mean accuracy; or that of the F1 of the labels, scikit-learn's `macro`."""
        if metric == "accuracy":
            return super().aggregate(metric, values)
        from sklearn.metrics import f1_score

        answers, right = zip(*values, strict=True)
        return float(f1_score(right, answers, average="macro"))

    def _inputs(self, row: Row, tokenizer: Any) -> Sequence[Input]:
        return [tuple(row[key] for key in ("text", "text_pair") if key in row)]

    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        label, answer = row["label"], names[int(logits[0].argmax())]
        right = label if isinstance(label, str) else names[label]
        both = dict.fromkeys(("f1", ANSWER), (answer, right))
        return {"accuracy": float(answer == right), **both}


def _text_or_messages(value: Any, where: str) -> Any:
    """Return a text, or the messages of a chat: each has a role and a content."""
    if not isinstance(value, list):
        return VALUES.text(value, where)
    for item in VALUES.items(value, where, least=1):
        message = VALUES.mapping(item, where)
        VALUES.text(message.get("role"), f"{where}: role")
        if message.get("content") != "":  # a system prompt may be empty
            VALUES.text(message.get("content"), f"{where}: content")
    return value


class Pairwise(ClassifierObjective):
    """Whether a reward model scores the chosen answer higher; 0.5 where both have one score."""

    needed, metrics, uses_templates = ("chosen", "rejected"), ROWS["pairwise"].metrics, True
    is_reward = True
    compared = ("prompt", "chosen", "rejected")
    columns: ClassVar[Columns] = dict.fromkeys(compared, _text_or_messages)
    row_text = '{"prompt": "...", "chosen": "...", "rejected": "..."}, the first if wanted'

    def __init__(self, name: str, rows: Sequence[Row], digest: str, batch_size: BatchSize) -> None:
        super().__init__(name, rows, digest, batch_size)
        kinds = {isinstance(value, str) for row in rows for value in row.values()}
        if len(kinds) == 2:
            raise ConfigError(
                f"objectives: {name} has texts in some rows or columns, and messages in others; "
                "write all as texts, or all as lists of messages."
            )
        self.are_chats = kinds == {False}

    def _inputs(self, row: Row, tokenizer: Any) -> Sequence[Input]:
        answers = row["chosen"], row["rejected"]
        if self.are_chats:
            chats = ([*row.get("prompt", ()), *answer] for answer in answers)
            with limited_chat_templates():
                return [(tokenizer.apply_chat_template(chat, tokenize=False),) for chat in chats]
        prompt = row.get("prompt", "")
        if prompt and tokenizer.sep_token is not None:  # it separates two texts
            return [(prompt, answer) for answer in answers]
        return [(prompt + answer,) for answer in answers]

    def _measured(self, row: Row, logits: Sequence[Tensor], names: Names) -> dict[str, Any]:
        chosen, rejected = (float(item) for item in logits)
        share = 0.5 if chosen == rejected else float(chosen > rejected)
        return {"pairwise": share, ANSWER: (f"chosen {chosen:.4g}, rejected {rejected:.4g}", "")}
