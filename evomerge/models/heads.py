"""What follows the blocks of a model: the head of a classifier, the modules of a sentence encoder.

A head can be merged where all parents of a recipe classify the same with the same labels, in the
same order. Otherwise the merge has the host's own head, and only what the models share is merged:
the body.
"""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, TypeAlias

from evomerge.errors import CheckpointError, listed
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.part import Parents, Part
from evomerge.models.safetensors import read_json

Classified: TypeAlias = Literal["texts", "tokens"]

_MOST = 8  # names of labels in a sentence
_NO_LIMIT = 1_000_000
"""Tokens of a text; transformers has larger numbers for tokenizers without a largest length."""

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


class Head(Part):
    """The head of a classifier. Parents with other labels, or without any, give their body."""

    def names(self, model: Checkpoint) -> Mapping[str, Collection[str]]:
        """Return the tensors of the head of a classifier."""
        return {} if classified(model) is None else {"head": head_of(model)}

    def kind(self, model: Checkpoint) -> str | None:
        """Return what a classifier classifies."""
        if (what := classified(model)) is None:
            return None
        is_single = what == "texts" and len(labels_of(model)) == 1
        return "reward model" if is_single else f"classifier of {what}"

    def fit(self, host: Checkpoint, parent: Checkpoint) -> Checkpoint:
        """Return a parent with a head of the host's labels, or without one.

        CheckpointError: `id2label` of a parent is damaged, or has the labels in another order.
        """
        if parent is host or classified(host) is None or host.modules is not None:
            return parent
        if not _has_same_head(host, parent):
            own = TensorNameMap(host, parent).non_layer
            heads = {name for name, place in host.places.items() if place == "head"}
            return _without_head(parent, own, {*head_of(host), *(heads - own.keys())})
        if labels_of(parent) != labels_of(host) and len(labels_of(host)) > 1:
            raise CheckpointError(
                f"Parents {host.reference!r} and {parent.reference!r} have the same labels in "
                f"different orders ({in_words(labels_of(host))}; {in_words(labels_of(parent))}); "
                "put `id2label` and the rows of the head of one of them into the order of the "
                "other."
            )
        return parent

    def advice(self, host: Checkpoint, parent: Checkpoint) -> Iterator[str]:
        """Yield the labels of both, which may mean the same."""
        if classified(host) == classified(parent) is not None:
            yield (
                f"its labels are {in_words(labels_of(parent))} and those of the host "
                f"{in_words(labels_of(host))}: if they mean the same, name them alike in "
                "`id2label` of both"
            )

    def facts(self, parents: Parents) -> Mapping[str, object]:
        """Return the labels, and whether heads are merged."""
        model, checkpoints = parents.model, parents.checkpoints
        if (what := classified(model)) is None:
            return {}
        labels, is_body = labels_of(model), any(item.lacks for item in checkpoints.values())
        score = "one score (a reward model, or a cross-encoder)"
        kind = score if len(labels) == 1 else f"{what} with the labels {in_words(labels)}"
        return {"classifier": f"{kind}; merged: the body{'' if is_body else ' and the head'}"}


class Modules(Part):
    """Pooling, projections and more. A parent may lack them; then it takes those of the host."""

    left_out = "modules of sentence-transformers (with it as the host they are kept)"
    lent = "modules.json"

    def names(self, model: Checkpoint) -> Mapping[str, Collection[str]]:
        """Return the weights of the modules, which may have none."""
        own = [*filter(model.module_of, model.tensors)]
        return {} if model.modules is None else {"modules": own}

    def kind(self, model: Checkpoint) -> str | None:
        """Return whether a model encodes texts as sentence-transformers does."""
        is_one = model.modules is not None and model.modules.obstacle() is None
        return "sentence encoder" if is_one else None

    def fit(self, host: Checkpoint, parent: Checkpoint) -> Checkpoint:
        """Return a parent without a head that the encoder does not have."""
        if host.modules is None:
            return parent
        own = TensorNameMap(host, parent).non_layer
        modules = filter(host.module_of, host.tensors) if parent.modules is None else ()
        return _without_head(parent, own, {*modules} - own.keys())

    def notes(self, parents: Parents) -> Iterator[str]:
        """Yield the settings of modules that one merge does not take; a search compares models."""
        names, merged = parents.names, parents.merged
        for name, parent in parents.checkpoints.items() if merged is None else ():
            if keys := self.differences(parents.model, parent):
                yield (
                    f"{names[name]} encodes texts by another {listed(keys)}; the merge takes those "
                    f"of {names[parents.host]}."
                )

    def facts(self, parents: Parents) -> Mapping[str, object]:
        """Return what follows the transformer."""
        model, words = parents.model, None
        if model.modules is not None:
            length = _longest_text(model)
            words = model.modules.in_words()
            words += f"; texts of up to {length:,} tokens" if length else ""
        return {"encoder": words}

    def differences(self, one: Checkpoint, other: Checkpoint) -> list[str]:
        """Return the settings in which two models make embeddings of a text."""
        if one.modules is None or other.modules is None:
            return []
        settings, others = _settings(one), _settings(other)
        return [key for key in settings | others if settings.get(key) != others.get(key)]


def _settings(model: Checkpoint) -> dict[str, Any]:
    assert model.modules is not None
    return dict(model.modules.plain()) | {"max_seq_length": _longest_text(model)}


def _longest_text(checkpoint: Checkpoint) -> int | None:
    """Return the largest number of tokens of a text that an encoder reads; None: no limit."""
    assert checkpoint.modules is not None
    length = checkpoint.modules.modules[0].settings.get("max_seq_length")
    if length is None:
        file = checkpoint.folder / "tokenizer_config.json"
        of_tokenizer = read_json(file).get("model_max_length") if file.is_file() else None
        limits = (of_tokenizer, checkpoint.config.get("max_position_embeddings"))
        known = (limit for limit in limits if isinstance(limit, (int, float)) and limit > 0)
        length = min(known, default=_NO_LIMIT)
    return int(length) if length < _NO_LIMIT else None


def _without_head(parent: Checkpoint, own: Mapping[str, str], lacks: set[str]) -> Checkpoint:
    """Return a parent without what the host has no place for in its head, or takes from itself.

    `own`: name in the host -> name in the parent. `lacks`: names of what it takes from itself.
    """
    heads = {name for name, place in parent.places.items() if place == "head"}
    lost = heads - {own[name] for name in own.keys() - lacks}
    if not (lost or lacks):
        return parent
    tensors = {name: info for name, info in parent.tensors.items() if name not in lost}
    original = parent.original or parent
    return replace(
        parent, tensors=tensors, lacks=frozenset(lacks), lost=frozenset(lost), original=original
    )


def modules_of(names: Iterable[str]) -> list[str]:
    """Return the modules of tensors, without the names inside of a head or of a body."""
    parts = (name.rpartition(".")[0].split(".") for name in sorted(names))
    return list(dict.fromkeys(".".join(words[:2]) for words in parts))
