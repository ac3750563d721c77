"""The classification head of a model: its labels, and whether parents' heads can be merged.

A head can be merged where all parents of a recipe classify the same with the same labels, in the
same order. Otherwise the merge has the host's own head, and only what the models share is merged:
the body.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal, TypeAlias

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap

Classified: TypeAlias = Literal["texts", "tokens"]

_MOST = 8  # names of labels in a sentence
_CLASS = re.compile(r"For(Sequence|Token)Classification$")


def classified(checkpoint: Checkpoint) -> Classified | None:
    """Return what a model's head classifies, by the class in its config; None: it has no such."""
    classes = checkpoint.config.get("architectures") or ()
    match = _CLASS.search(classes[0]) if classes else None
    if match is None:
        return None
    return "texts" if match[1] == "Sequence" else "tokens"


def labels_of(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Return the names of the labels, in the order of the head's rows.

    CheckpointError: `id2label` is damaged.
    """
    given = checkpoint.config.get("id2label")
    if given is None:
        count = checkpoint.config.get("num_labels", 2)  # transformers' default
        return tuple(f"LABEL_{i}" for i in range(count if type(count) is int else 2))
    try:
        names = {int(number): str(name) for number, name in given.items()}
        return tuple(names[number] for number in range(len(names)))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"Parent {checkpoint.reference!r}: `id2label` in its config.json must have the names "
            "of the labels by 0, 1, 2, ...; copy config.json again."
        ) from error


def class_of(checkpoint: Checkpoint) -> str:
    """Return the class of transformers in a model's config, as a person knows it."""
    return str((checkpoint.config.get("architectures") or ["no class"])[0])


def in_words(labels: Sequence[str]) -> str:
    """Return the first names of labels, and how many more there are."""
    rest = len(labels) - _MOST
    return ", ".join(labels[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def head_of(host: Checkpoint) -> tuple[str, ...]:
    """Return the names of the tensors of a model's classification head."""
    body = host.decoder_stack.prefix.partition(".")[0]
    return tuple(
        name
        for name, place in host.places.items()
        if place == "head" and not name.startswith(f"{body}.")
    )


def _has_same_head(host: Checkpoint, parent: Checkpoint) -> bool:
    """Whether a parent has the labels of the host, in any order, and a head of the same shapes.

    The only label of a reward model may have any name.
    """
    if classified(parent) != classified(host):
        return False
    one, other = labels_of(host), labels_of(parent)
    if sorted(one) != sorted(other) and not len(one) == len(other) == 1:
        return False
    own = TensorNameMap(host, parent).non_layer
    return all(
        name in own and parent.tensors[own[name]].shape == host.tensors[name].shape
        for name in head_of(host)
    )


def with_heads_of_host(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, Checkpoint]:
    """Return the parents of a classifier, each with a head of the host's labels, or with none.

    The parents of a sentence encoder are without a head, which it has no place for, and one without
    modules lacks the host's. Nothing changes with another host.

    CheckpointError: `id2label` of a parent is damaged, or has the labels in another order.
    """
    model = checkpoints[host]

    def fitted(item: Checkpoint) -> Checkpoint:
        if model.modules is not None:
            return _for_encoder(model, item)
        if item is model or classified(model) is None:
            return item
        if not _has_same_head(model, item):
            return _without_head(model, item)
        if labels_of(item) != labels_of(model) and len(labels_of(model)) > 1:
            raise CheckpointError(
                f"Parents {host!r} and {item.reference!r} have the same labels in different orders "
                f"({in_words(labels_of(model))}; {in_words(labels_of(item))}); put `id2label` and "
                "the rows of the head of one of them into the order of the other."
            )
        return item

    return {name: fitted(item) for name, item in checkpoints.items()}


def _without_head(host: Checkpoint, parent: Checkpoint) -> Checkpoint:
    """Return a parent without its head, which lacks what the host has and it has not."""
    own = TensorNameMap(host, parent).non_layer
    heads = {name for name, place in host.places.items() if place == "head"}
    return _stripped(parent, own, {*head_of(host), *(heads - own.keys())})


def _for_encoder(host: Checkpoint, parent: Checkpoint) -> Checkpoint:
    """Return a parent without a head that the host does not have; one may lack the modules."""
    own = TensorNameMap(host, parent).non_layer
    modules = filter(host.module_of, host.tensors) if parent.modules is None else ()
    return _stripped(parent, own, {*modules} - own.keys())


def _stripped(parent: Checkpoint, own: Mapping[str, str], lacks: set[str]) -> Checkpoint:
    """Return a parent without what the host has no place for in its head, or takes from itself.

    `own`: name in the host -> name in the parent. `lacks`: names of what it takes from itself.
    """
    heads = {name for name, place in parent.places.items() if place == "head"}
    left = heads - {own[name] for name in own.keys() - lacks}
    if not (left or lacks):
        return parent
    tensors = {name: info for name, info in parent.tensors.items() if name not in left}
    original = parent.original or parent
    return replace(parent, tensors=tensors, lacks=frozenset(lacks), original=original)


def lost_of_head(parent: Checkpoint) -> list[str]:
    """Return the modules of a parent's head that are not merged, as a person knows them."""
    return modules_of(set((parent.original or parent).tensors) - set(parent.tensors))


def modules_of(names: Iterable[str]) -> list[str]:
    """Return the modules of tensors, without the names inside of a head or of a body."""
    parts = (name.rpartition(".")[0].split(".") for name in sorted(names))
    return list(dict.fromkeys(".".join(words[:2]) for words in parts))
