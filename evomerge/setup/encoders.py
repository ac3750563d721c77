"""Sentence encoders in a search: whether its parents can be scored, and what a person is told."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from evomerge.config.frozen import Documents
from evomerge.errors import ConfigError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import lost_of_head
from evomerge.models.modules import max_length
from evomerge.models.safetensors import read_json
from evomerge.report.words import listed
from evomerge.scores import Split

if TYPE_CHECKING:
    from evomerge.evaluation.evaluator import Evaluator


def check_encoders(checkpoints: Mapping[str, Checkpoint], host: str) -> None:
    """Check that the host, and the other parents that have modules, can encode texts.

    Raises:
        ConfigError: sentence-transformers is not installed.
        CheckpointError: a model has no modules, or one that cannot be run.
    """
    from evomerge.merging.architecture.modules import check_encoder

    for name, checkpoint in checkpoints.items():
        if name == host or checkpoint.modules is not None:
            check_encoder(checkpoint)


def check_scores(evaluator: Evaluator, splits: Mapping[Split, Documents]) -> None:
    """Check that in each split some pairs of sentences have other scores than the rest.

    Raises:
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


def longest_text(checkpoint: Checkpoint) -> int | None:
    """Return the largest number of tokens of a text that an encoder reads; None: no limit."""
    assert checkpoint.modules is not None
    file = checkpoint.folder / "tokenizer_config.json"
    given = read_json(file).get("model_max_length") if file.is_file() else None
    of_tokenizer = given if isinstance(given, (int, float)) else float("inf")
    return max_length(checkpoint.modules.modules[0].settings, of_tokenizer, checkpoint.config)


def encoder_in_words(host: Checkpoint, parents: Iterable[Checkpoint]) -> str | None:
    """Return what kind of sentence encoder the merges are; None: they are none."""
    stack = host.modules
    if stack is None:
        return None
    weights = dict.fromkeys(filter(None, map(host.module_of, host.tensors)))
    lacked = {host.module_of(name) for parent in parents for name in parent.lacks}
    merged = [folder for folder in weights if folder not in lacked]
    kept = [folder for folder in stack.folders if folder not in weights]
    kept += ["prompts"] if any(stack.prompts.values()) else []
    length = longest_text(host)
    parts = [
        stack.in_words(),
        f"{stack.dimensions} dimensions" if stack.dimensions else "",
        f"texts of up to {length:,} tokens" if length else "",
        f"merged: {listed(['the transformer', *merged])}",
        f"kept from the host: {listed(kept)}" if kept else "",
        f"kept from the host where a parent lacks it: {listed(sorted(lacked))}" if lacked else "",
    ]
    return "; ".join(filter(None, parts))


def encoder_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the settings by which an encoder makes an embedding of a text: name -> value."""
    assert checkpoint.modules is not None
    return dict(checkpoint.modules.plain()) | {"max_seq_length": longest_text(checkpoint)}


def module_notes(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> list[str]:
    """Return sentences about parents that lack the modules of others; the host comes first."""
    host, *others = checkpoints
    if host.modules is None:
        having = [names[item.reference] for item in others if item.modules is not None]
        if not having:
            return []
        return [
            f"{_have(having)} modules of sentence-transformers and the host "
            f"{names[host.reference]} has none, so the merge is a transformer without pooling; "
            "take another host if it is to encode texts."
        ]
    heads = [(names[item.reference], lost_of_head(item)) for item in others]
    notes = [
        f"{name} has a head ({listed(lost)}), which a sentence encoder has no place for: only its "
        "body is merged."
        for name, lost in heads
        if lost
    ]
    lacking = [names[item.reference] for item in others if item.modules is None]
    if lacking:
        notes.append(
            f"{_have(lacking)} no modules.json, so the merge encodes texts with the modules of the "
            f"host {names[host.reference]}, also where a parent is scored or exported alone."
        )
    return notes


def differing_modules(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each parent whose modules have other settings; the host is first."""
    host, *others = (item for item in checkpoints if item.modules is not None)
    own, notes = encoder_settings(host), []
    for item in others:
        theirs = encoder_settings(item)
        keys = [key for key in {**own, **theirs} if own.get(key) != theirs.get(key)]
        if keys:
            notes.append(
                f"{names[item.reference]} encodes texts by another {listed(keys)}; the merge takes "
                f"those of {names[host.reference]}."
            )
    return notes


def _have(names: list[str]) -> str:
    return f"{listed(names)} {'has' if len(names) == 1 else 'have'}"
