"""What models have beside a decoder: heads, modules, encoders, what sees or hears; and in words.

Names of parents are those that people read. The host, which merges have their parts from, is first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from evomerge.errors import listed
from evomerge.models.causal import is_encoder_decoder
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import modality_misfit
from evomerge.models.heads import (
    class_of,
    classified,
    in_words,
    labels_of,
    lost_of_head,
    modules_of,
)
from evomerge.models.safetensors import read_json
from evomerge.models.stacks import Modality, Stack

_NO_LIMIT = 1_000_000
"""Tokens of a text; transformers has larger numbers for tokenizers without a largest length."""

_MODALITIES: tuple[Modality, ...] = ("vision", "projector", "audio")


def merged_stacks(checkpoint: Checkpoint) -> dict[str, Stack]:
    """Return the block stacks that a search merges, by prefix: an encoder's, then the decoder's."""
    decoder, language = checkpoint.decoder_stack, checkpoint.language
    of_encoder = (name for name in language if "encoder" in name and name != decoder.prefix)
    names = [*(of_encoder if is_encoder_decoder(checkpoint) else ()), decoder.prefix]
    return {name: language[name] for name in names}


def stack_names(checkpoint: Checkpoint) -> list[str]:
    """Return how people call the stacks of `merged_stacks`."""
    stacks = merged_stacks(checkpoint)
    return {1: ["layers"], 2: ["encoder", "decoder"]}.get(len(stacks), list(stacks))


def has_read_head(host: Checkpoint) -> bool:
    """Whether an encoder has more behind its blocks than a pooler, which its modules do not read.

    They read the last hidden states.
    """
    return any("pooler" not in name for name, place in host.places.items() if place == "head")


def shared_modalities(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, list[str]]:
    """Return each modality of a host -> the parents whose tensors of it can be merged."""
    model = checkpoints[host]
    return {
        modality: [
            name
            for name, item in checkpoints.items()
            if modality in item.modalities and modality_misfit(model, item, modality) is None
        ]
        for modality in model.modalities
    }


def parts_in_words(
    checkpoints: Mapping[str, Checkpoint],
    host: str,
    merged: Mapping[str, Sequence[str]],
    *,
    stacks: int,
    is_path: bool,
) -> dict[str, Any]:
    """Return rows of `evomerge validate`: the parts that a host has, or None.

    Args:
        merged: modality -> the parents that merges have it from; missing: the host's.
        stacks: number of block stacks that are merged; is_path: of a path through the layers.
    """
    model, parents = checkpoints[host], checkpoints.values()
    having = {m: [n for n, it in checkpoints.items() if m in it.modalities] for m in _MODALITIES}
    fates = {
        modality: _fate(modality, names, host, merged.get(modality, ()), is_path=is_path)
        for modality, names in having.items()
        if names
    }
    return {
        "encoder_decoder": _stacks_in_words(model, is_part=stacks == 1),
        "modality_tensors": fates or None,
        "encoder": _modules_in_words(model),
        "classifier": _head_in_words(model, parents),
    }


def _head_in_words(host: Checkpoint, parents: Iterable[Checkpoint]) -> str | None:
    if (what := classified(host)) is None:
        return None
    labels, is_body = labels_of(host), any(item.lacks for item in parents)
    score = "one score of a text (a reward model)"
    kind = score if len(labels) == 1 else f"{what} with the labels {in_words(labels)}"
    return f"{kind}; merged: the body{'' if is_body else ' and the head'}"


def _modules_in_words(host: Checkpoint) -> str | None:
    if host.modules is None:
        return None
    length = _longest_text(host)
    return host.modules.in_words() + (f"; texts of up to {length:,} tokens" if length else "")


def _stacks_in_words(host: Checkpoint, *, is_part: bool) -> str | None:
    if not is_encoder_decoder(host) or len(stacks := merged_stacks(host)) < 2:
        return None
    *_, encoder, decoder = map(len, stacks.values())
    fate = "those of the encoder are the host's" if is_part else "all are merged"
    return f"{encoder} layers of the encoder, {decoder} of the decoder; {fate}"


def _fate(
    modality: str, having: Sequence[str], host: str, merged: Sequence[str], *, is_path: bool
) -> str:
    """Return what becomes of a modality in a merge, given the parents that have it."""
    if host not in having:
        return "lost, since the host has none"
    if merged:
        return f"merged from {', '.join(merged)}"
    hint = f"; `components: [{modality}]` merges it" if len(having) > 1 else ""
    return "kept" if is_path else f"kept from the host{hint}"


def lost_part_notes(
    checkpoints: Mapping[str, Checkpoint], host: str, merged: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """Yield warnings of modalities that are lost or not merged; see `parts_in_words`."""
    for modality in _MODALITIES:
        having = {n: item for n, item in checkpoints.items() if modality in item.modalities}
        if having and host not in having:
            (name, *_) = having
            yield (
                f"the {modality} tensors of {name!r} are lost, since the host {host!r} has none; "
                f"set `space.host` to {name!r} to keep them."
            )
        for name, item in having.items() if merged.get(modality) else ():
            if reason := modality_misfit(checkpoints[host], item, modality):
                yield f"{name!r} has no share in {modality} tensors, since {reason}."


def part_notes(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> Iterator[str]:
    """Yield what merges leave out of each parent, and have from the host.

    These are heads of classifiers, and heads and modules of sentence encoders.
    """
    host, *others = checkpoints
    for parent in others:
        name, lent = names[parent.reference], modules_of(parent.lacks)
        left = lost_of_head(parent) if host.modules or classified(host) else []
        if host.modules is None and parent.modules is not None:
            left = [*left, "modules of sentence-transformers (with it as the host they are kept)"]
        if host.modules is not None and parent.modules is None:
            lent = ["modules.json", *lent]
        parts = [f"only the body of {name} ({class_of(parent)}) is merged"]
        if left:
            parts.append(f"its {listed(left)} is left out")
        if lent:
            parts.append(
                f"the {listed(lent)} of the host {names[host.reference]} takes its place, also "
                f"where {name} is scored or exported alone"
            )
        if lent and classified(host) == classified(parent) is not None:
            parts.append(
                f"its labels are {in_words(labels_of(parent))} and those of the host "
                f"{in_words(labels_of(host))}: if they mean the same, name them alike in "
                "`id2label` of both"
            )
        if left or lent:
            yield f"{'; '.join(parts)}."


def module_differences(one: Checkpoint, other: Checkpoint) -> list[str]:
    """Return the settings in which two models make embeddings of a text; none without modules."""
    if one.modules is None or other.modules is None:
        return []
    settings = dict(one.modules.plain()) | {"max_seq_length": _longest_text(one)}
    others = dict(other.modules.plain()) | {"max_seq_length": _longest_text(other)}
    return [key for key in settings | others if settings.get(key) != others.get(key)]


def module_notes(checkpoints: Iterable[Checkpoint], names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each parent whose modules have other settings."""
    host, *others = checkpoints
    return [
        f"{names[item.reference]} encodes texts by another {listed(keys)}; the merge takes those "
        f"of {names[host.reference]}."
        for item in others
        if (keys := module_differences(host, item))
    ]


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
