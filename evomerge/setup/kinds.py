"""Models that are more than a causal language model: what is refused, and what a person is told.

Classifiers, sentence encoders, encoder-decoders, models that see or hear.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from evomerge.config.frozen import Documents
from evomerge.errors import CheckpointError, ConfigError, did_you_mean, one_line
from evomerge.models.causal import is_encoder_decoder, merged_stacks
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import modality_misfit
from evomerge.models.heads import (
    classified,
    labels_of,
    lost_of_head,
    modules_of,
)
from evomerge.models.modules import max_length
from evomerge.models.safetensors import read_json
from evomerge.recipe import MODALITIES
from evomerge.report.words import listed
from evomerge.scores import Split
from evomerge.setup.checked import CheckedSearch

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.classifiers import ClassifierObjective

_MOST = 8  # names of labels in a sentence


def _classifier_objectives(evaluator: Evaluator) -> Iterator[ClassifierObjective]:
    from evomerge.evaluation.tasks.classifiers import ClassifierObjective

    for of_split in (evaluator.default, *evaluator.by_split.values()):
        for item in of_split.functions.values():
            if isinstance(item, ClassifierObjective):
                yield item


def check_head(checkpoint: Checkpoint, evaluator: Evaluator, reordered: Sequence[str] = ()) -> None:
    """Check that a model has the head and the labels that the objectives need.

    `reordered`: the parents that number the same labels in another way.

    CheckpointError: it has another head, or none; ConfigError: it has no such label, or a label is
    a number that means several.
    """
    name, kind = checkpoint.reference, _class_of(checkpoint)
    labels = labels_of(checkpoint) if classified(checkpoint) == "texts" else ()
    problem = checkpoint.config.get("problem_type")
    for objective in _classifier_objectives(evaluator):
        task, of_pairs = objective.info.name, objective.kind == "pairwise"
        several = problem in ("multi_label_classification", "regression")
        if len(labels) == 0 or of_pairs != (len(labels) == 1) or (several and not of_pairs):
            need = "one output (a reward model)" if of_pairs else "labels of which it chooses one"
            raise CheckpointError(
                f"Parent {name!r} is a {kind} with {len(labels)} outputs (problem_type {problem}), "
                f"but {task} needs a class that ends in ForSequenceClassification with {need}; "
                "name such a host with `space.host`, or take other objectives."
            )
        for document, label in objective.labels():
            row = f"objectives: row {document + 1} of {task} has the label {label!r}, "
            if label not in (labels if isinstance(label, str) else range(len(labels))):
                raise ConfigError(
                    f"{row}and the labels of {name!r} are {_shown(labels)}; write one of them, or "
                    f"its number from 0.{did_you_mean(str(label), labels)}"
                )
            if isinstance(label, int) and reordered:
                raise ConfigError(
                    f"{row}but {name!r} and {reordered[0]!r} have their labels in different "
                    "orders; write the names of labels."
                )


def check_texts(evaluator: Evaluator, tokenizer: Any, reference: str) -> None:
    """Check that the tokenizer of the merges makes tokens of all texts and messages of the rows.

    ConfigError: a text gives none, or there is no chat template, or it refuses messages.
    """
    for objective in _classifier_objectives(evaluator):
        for document, error in objective.unread(tokenizer):
            row = f"objectives: row {document + 1} of {objective.info.name} has"
            if error is None:
                raise ConfigError(
                    f"{row} a text of which the tokenizer of {reference!r} makes no tokens; write "
                    "a text, or leave the row out."
                )
            raise ConfigError(
                f"{row} messages that the tokenizer of {reference!r} cannot write "
                f"({one_line(error).rstrip('.')}); give a tokenizer with a chat template for "
                "them, or write texts."
            ) from error


def check_encoders(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that the host, and the other parents that have modules, can encode texts.

    ConfigError: sentence-transformers is not installed; CheckpointError: a model has no modules, or
    one that cannot be run.
    """
    from evomerge.merging.architecture.modules import check_encoder

    for name, checkpoint in checkpoints.items():
        if name == host or checkpoint.modules is not None:
            check_encoder(checkpoint)


def check_scores(evaluator: Evaluator, splits: Mapping[Split, Documents]) -> None:
    """Check that in each split some pairs of sentences have other scores than the rest.

    ConfigError: all have one score, and a correlation with it is no number.
    """
    from evomerge.evaluation.tasks.encoders import Sts

    for split, documents in splits.items():
        for name, function in evaluator.tasks_of(split).functions.items():
            ids = documents[name]
            if isinstance(function, Sts) and len({function.rows[i]["score"] for i in ids}) < 2:
                raise ConfigError(
                    f"evaluation.{split}: the documents of {name!r} ({len(ids)}) have one score, "
                    f"{function.rows[ids[0]]['score']:g}, and a correlation needs two that differ; "
                    f"set `evaluation.{split}.documents` to more, or give other rows."
                )


def in_words(checked: CheckedSearch) -> dict[str, Any]:
    """Return the rows of `evomerge validate` that only these kinds have, or None."""
    host, parents = checked.checkpoints[checked.host], checked.checkpoints.values()
    fates = {modality: _fate(checked, modality) for modality in MODALITIES}
    return {
        "encoder_decoder": _stacks_in_words(checked, host),
        "modality_tensors": {name: fate for name, fate in fates.items() if fate} or None,
        "encoder": _encoder_in_words(host),
        "classifier": _classifier_in_words(host, parents),
    }


def _classifier_in_words(host: Checkpoint, parents: Iterable[Checkpoint]) -> str | None:
    if (what := classified(host)) is None:
        return None
    labels, is_body = labels_of(host), any(item.lacks for item in parents)
    score = "one score of a text (a reward model)"
    told = score if len(labels) == 1 else f"{what} with the labels {_shown(labels)}"
    return f"{told}; merged: the body{'' if is_body else ' and the head'}"


def _encoder_in_words(host: Checkpoint) -> str | None:
    if host.modules is None:
        return None
    length = longest_text(host)
    return host.modules.in_words() + (f"; texts of up to {length:,} tokens" if length else "")


def _stacks_in_words(checked: CheckedSearch, host: Checkpoint) -> str | None:
    if not is_encoder_decoder(host) or len(stacks := merged_stacks(host)) < 2:
        return None
    *_, encoder, decoder = map(len, stacks.values())
    is_path = len(next(iter(checked.space.baselines().values())).layers) == 1
    fate = "those of the encoder are the host's" if is_path else "all are merged"
    return f"{encoder} layers of the encoder, {decoder} of the decoder; {fate}"


def _fate(checked: CheckedSearch, modality: str) -> str:
    """Return what becomes of a modality in a merge; empty if no parent has it."""
    having = [n for n, item in checked.checkpoints.items() if modality in item.modalities]
    if checked.host not in having:
        return "lost, since the host has none" if having else ""
    if merged := _merged(checked, modality):
        return f"merged from {', '.join(merged)}"
    others = [name for name in having if name != checked.host]
    hint = f"; `components: [{modality}]` merges it" if others else ""
    return f"kept from the host{hint}" if checked.config.space.kind == "parameters" else "kept"


def _merged(checked: CheckedSearch, modality: str) -> list[str]:
    """Return the parents that candidates merge a modality from."""
    layers = (recipe.modalities.get(modality) for recipe in checked.space.baselines().values())
    return list(dict.fromkeys(s.parent for layer in layers if layer for s in layer.inputs))


def longest_text(checkpoint: Checkpoint) -> int | None:
    """Return the largest number of tokens of a text that an encoder reads; None: no limit."""
    assert checkpoint.modules is not None
    file = checkpoint.folder / "tokenizer_config.json"
    given = read_json(file).get("model_max_length") if file.is_file() else None
    of_tokenizer = given if isinstance(given, (int, float)) else float("inf")
    return max_length(checkpoint.modules.modules[0].settings, of_tokenizer, checkpoint.config)


def encoder_differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """Return the settings in which two models make embeddings of a text; none without modules."""
    if one.modules is None or other.modules is None:
        return []
    own = dict(one.modules.plain()) | {"max_seq_length": longest_text(one)}
    theirs = dict(other.modules.plain()) | {"max_seq_length": longest_text(other)}
    return [key for key in own | theirs if own.get(key) != theirs.get(key)]


def part_notes(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> Iterator[str]:
    """Yield what merges leave out of each parent, and have from the host; the host comes first.

    These are heads of classifiers, and heads and modules of sentence encoders.
    """
    host, *others = checkpoints
    for parent in others:
        own, lent = names[parent.reference], modules_of(parent.lacks)
        left = lost_of_head(parent) if host.modules or classified(host) else []
        if host.modules is None and parent.modules is not None:
            left = [*left, "modules of sentence-transformers (with it as the host they are kept)"]
        if host.modules is not None and parent.modules is None:
            lent = ["modules.json", *lent]
        parts = [f"only the body of {own} ({_class_of(parent)}) is merged"]
        if left:
            parts.append(f"its {listed(left)} is left out")
        if lent:
            parts.append(
                f"the {listed(lent)} of the host {names[host.reference]} takes its place, also "
                f"where {own} is scored or exported alone"
            )
        if lent and classified(host) == classified(parent) is not None:
            parts.append(
                f"its labels are {_shown(labels_of(parent))} and those of the host "
                f"{_shown(labels_of(host))}: if they mean the same, name them alike in "
                "`id2label` of both"
            )
        if left or lent:
            yield f"{'; '.join(parts)}."


def differing_modules(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each parent whose modules have other settings; the host is first."""
    host, *others = checkpoints
    return [
        f"{names[item.reference]} encodes texts by another {listed(keys)}; the merge takes those "
        f"of {names[host.reference]}."
        for item in others
        if (keys := encoder_differences(host, item))
    ]


def modality_notes(checked: CheckedSearch) -> Iterator[str]:
    """Yield warnings of modalities that are lost or not merged."""
    host = checked.checkpoints[checked.host]
    for modality in MODALITIES:
        having = {n: item for n, item in checked.checkpoints.items() if modality in item.modalities}
        if having and checked.host not in having:
            (name, *_) = having
            yield (
                f"the {modality} tensors of {name!r} are lost, since the host {checked.host!r} has "
                f"none; set `space.host` to {name!r} to keep them."
            )
        for name, item in having.items() if _merged(checked, modality) else ():
            if reason := modality_misfit(host, item, modality):
                yield f"{name!r} has no share in {modality} tensors, since {reason}."


def _class_of(checkpoint: Checkpoint) -> str:
    return str((checkpoint.config.get("architectures") or ["no class"])[0])


def _shown(labels: tuple[str, ...]) -> str:
    rest = len(labels) - _MOST
    return ", ".join(labels[:_MOST]) + (f" and {rest} more" if rest > 0 else "")
