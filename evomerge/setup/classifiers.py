"""Classifiers in a search: whether models have the head and labels, and what a person is told."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from evomerge.errors import CheckpointError, ConfigError, did_you_mean, one_line
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import (
    classified,
    head_of,
    is_reordered,
    labels_of,
    lost_of_head,
    modules_of,
)
from evomerge.report.words import listed

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.classifiers import ClassifierObjective

_MOST = 8  # names of labels in a sentence


def objectives_of(evaluator: Evaluator) -> Iterator[ClassifierObjective]:
    """Yield the objectives of classifiers, for each split that has rows of its own."""
    from evomerge.evaluation.tasks.classifiers import ClassifierObjective

    for of_split in (evaluator.default, *evaluator.by_split.values()):
        for item in of_split.functions.values():
            if isinstance(item, ClassifierObjective):
                yield item


def check_classifiers(
    checkpoints: Mapping[str, Checkpoint], host: str, evaluator: Evaluator
) -> None:
    """Check that the host has the head that the rows need, and knows their labels.

    Raises:
        CheckpointError: the host has another head, or none.
        ConfigError: it has no such label, or a label is a number and parents number them in
            different ways.
    """
    check_head(checkpoints[host], evaluator)
    others = [name for name, item in checkpoints.items() if is_reordered(checkpoints[host], item)]
    for objective in objectives_of(evaluator):
        for document, label in objective.labels():
            if isinstance(label, int) and others:
                raise ConfigError(
                    f"objectives: row {document + 1} of {objective.info.name} has the label "
                    f"{label}, but {host!r} and {others[0]!r} have their labels in different "
                    "orders; write the names of labels."
                )


def check_head(checkpoint: Checkpoint, evaluator: Evaluator) -> None:
    """Check that a model has the head and the labels that the objectives need.

    Raises:
        CheckpointError: it has another head, or none.
        ConfigError: it has no such label.
    """
    name = checkpoint.reference
    for objective in objectives_of(evaluator):
        of_pairs, task = objective.kind == "pairwise", objective.info.name
        if classified(checkpoint) != "texts":
            kind = (checkpoint.config.get("architectures") or ["no class"])[0]
            raise CheckpointError(
                f"Parent {name!r} has no head that classifies texts, which {task} needs "
                f"(config.json: architectures {kind}); name a host whose class ends in "
                "ForSequenceClassification with `space.host`, or take other objectives."
            )
        labels = labels_of(checkpoint)
        if of_pairs and len(labels) != 1:
            raise CheckpointError(
                f"Parent {name!r} has {len(labels)} outputs ({_shown(labels)}), and `pairwise` "
                "compares the only output of a reward model; give such a model, or take "
                "`classifier: accuracy`."
            )
        if not of_pairs and len(labels) == 1:
            raise CheckpointError(
                f"Parent {name!r} has one output, so it has no labels to choose from as {task} "
                "needs them; give a model with more, or take `classifier: pairwise`."
            )
        problem = checkpoint.config.get("problem_type")
        if not of_pairs and problem in ("multi_label_classification", "regression"):
            raise CheckpointError(
                f"Parent {name!r} does not choose one of its labels (config.json: problem_type "
                f"{problem}), which {task} needs; write an objective function for it."
            )
        for document, label in objective.labels():
            if label not in (labels if isinstance(label, str) else range(len(labels))):
                raise ConfigError(
                    f"objectives: row {document + 1} of {task} has the label {label!r}, and the "
                    f"labels of {name!r} are {_shown(labels)}; write one of them, or its number "
                    f"from 0.{did_you_mean(str(label), labels)}"
                )


def check_texts(evaluator: Evaluator, tokenizer: Any, reference: str) -> None:
    """Check that the tokenizer of the merges makes tokens of all texts and messages of the rows.

    Raises:
        ConfigError: a text gives none, or there is no chat template, or it refuses messages.
    """
    for objective in objectives_of(evaluator):
        for document, chat in objective.chats():
            try:
                tokenizer.apply_chat_template(chat, tokenize=False)
            except Exception as error:  # a template may raise anything
                raise ConfigError(
                    f"objectives: row {document + 1} of {objective.info.name} has messages that "
                    f"the tokenizer of {reference!r} cannot write ({one_line(error).rstrip('.')}); "
                    "give a tokenizer with a chat template for them, or write texts."
                ) from error
        for document in objective.without_tokens(tokenizer):
            raise ConfigError(
                f"objectives: row {document + 1} of {objective.info.name} has a text of which the "
                f"tokenizer of {reference!r} makes no tokens; write a text there, or leave the row "
                "out."
            )


def classifier_in_words(host: Checkpoint, parents: Iterable[Checkpoint]) -> str | None:
    """Return what kind of classifier the merges are; None: they are none."""
    what = classified(host)
    if what is None:
        return None
    labels, head = labels_of(host), listed(modules_of(head_of(host)))
    kept = modules_of(name for parent in parents for name in parent.lacks)
    told = f"{what} with the labels {_shown(labels)}"
    parts = [
        "one score of a text (a reward model)" if len(labels) == 1 else told,
        f"merged: the body{'' if kept else f' and the head ({head})'}",
        f"kept from the host where a parent lacks it: {listed(kept)}" if kept else "",
    ]
    return "; ".join(filter(None, parts))


def head_notes(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> list[str]:
    """Return what is not merged of the heads of classifiers; the host comes first."""
    host, *others = checkpoints
    if classified(host) is None:
        return []
    notes, name = [], names[host.reference]
    for parent in others:
        own, labels = names[parent.reference], labels_of(parent)
        if not parent.lacks:
            if is_reordered(host, parent):
                notes.append(
                    f"{own} has the labels {_shown(labels)}, in another order than the host "
                    f"{name}; the rows of its head are put into the host's order."
                )
            continue
        lost = lost_of_head(parent)
        left = f", without {listed(lost)}" if lost else ""
        result = (
            f"only its body is merged{left}, and a merge with it has the head of the host {name}, "
            f"also where {own} is scored or exported alone"
        )
        if classified(parent) == classified(host):
            notes.append(
                f"{own} has the labels {_shown(labels)} and the host {name} "
                f"{_shown(labels_of(host))}, so heads cannot be merged: {result}; if the labels "
                "mean the same, give them the same names in `id2label` of both."
            )
        else:
            kind = (parent.config.get("architectures") or ["a model"])[0]
            notes.append(f"{own} does not classify {classified(host)} ({kind}): {result}.")
    return notes


def padding_notes(host: Checkpoint, evaluator: Evaluator) -> list[str]:
    """Return a sentence if classifiers are scored that cannot read several texts in a batch."""
    from evomerge.evaluation.inference.classifying import takes_padding
    from evomerge.merging.architecture.loading import transformers_config

    if not any(objectives_of(evaluator)) or takes_padding(transformers_config(host.config)):
        return []
    return [
        f"The host {host.reference} has no pad_token_id in its config.json, by which transformers "
        "finds the end of a text in a batch, so each text is scored alone, which takes longer; "
        "set it there."
    ]


def _shown(labels: tuple[str, ...]) -> str:
    rest = len(labels) - _MOST
    return ", ".join(labels[:_MOST]) + (f" and {rest} more" if rest > 0 else "")
