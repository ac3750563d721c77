"""What a model is for: its parts, and whether lm-eval's tasks can be scored on it."""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence

from evomerge.errors import CheckpointError, listed
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import TensorNameMap
from evomerge.models.files import TOKENIZER_FILES
from evomerge.models.gguf import ENDING, memory_text
from evomerge.models.heads import Head, Modules, class_of, modules_of
from evomerge.models.part import Parents, Part
from evomerge.models.stacks import Modality, Stack

_MODALITIES: tuple[Modality, ...] = ("vision", "projector", "audio")

_HAS_NO_LM_HEAD = re.compile(
    r"For(MaskedLM|PreTraining|NextSentencePrediction|MultipleChoice|QuestionAnswering|"
    r"(Sequence|Token|Image|Audio)Classification)$|(?<!LMHead)(?<!DoubleHeads)Model$"
)

_SENSES = {"vision": "sees", "audio": "hears"}


class Towers(Part):
    """Vision, audio and their projector. A search merges them where parents have the same ones."""

    def names(self, model: Checkpoint) -> Mapping[str, Collection[str]]:
        """Return the modalities of a model."""
        return {str(name): tensors for name, tensors in model.modalities.items()}

    def notes(self, parents: Parents) -> Iterator[str]:
        """Yield which towers are lost or not merged in a search."""
        if parents.merged is None:
            return
        for modality, owners in _owners(parents.checkpoints).items():
            if parents.host not in owners:
                yield (
                    f"the {modality} tensors of {owners[0]!r} are lost, since the host "
                    f"{parents.host!r} has none; set `space.host` to {owners[0]!r} to keep them."
                )
            for name in owners if parents.merged.get(modality) else ():
                if why := modality_misfit(parents.model, parents.checkpoints[name], modality):
                    yield f"{name!r} has no share in {modality} tensors, since {why}."

    def facts(self, parents: Parents) -> Mapping[str, object]:
        """Return what becomes of each modality of the parents."""
        fates = {
            modality: _fate(modality, owners, parents)
            for modality, owners in _owners(parents.checkpoints).items()
        }
        return {"modality_tensors": fates or None}


class Predictions(Part):
    """Layers for multi-token prediction, which transformers does not load."""

    def names(self, model: Checkpoint) -> Mapping[str, frozenset[str]]:
        """Return the names on disk; a merge has no such tensors."""
        return {"predictions": model.predictions} if model.predictions else {}

    def notes(self, parents: Parents) -> Iterator[str]:
        """Yield whose layers are left out."""
        models = parents.checkpoints.items()
        if owners := [name for name, parent in models if parent.predictions]:
            yield (
                f"The layers for multi-token prediction of {', '.join(owners)} are left out of the "
                "merge, since transformers does not load them; serve it without speculative "
                "decoding by them."
            )


class InFp8(Part):
    """Matrices in FP8, which every model that is built has in another dtype."""

    def notes(self, parents: Parents) -> Iterator[str]:
        """Yield whose matrices are read in another dtype than they are stored in."""
        models = parents.checkpoints.items()
        if owners := [parents.names[name] for name, parent in models if parent.is_in_fp8]:
            yield (
                f"{listed(owners)} {'is' if len(owners) == 1 else 'are'} stored in FP8; merges, "
                "scores and exports have the weights as bfloat16, also of a parent as itself."
            )


class InGguf(Part):
    """Weights in a GGUF file, which were converted when it was opened first."""

    def notes(self, parents: Parents) -> Iterator[str]:
        """Yield what the conversion of each file took."""
        for reference, parent in parents.checkpoints.items():
            if reference.partition("+")[0].endswith(ENDING):
                yield (
                    f"{parents.names[reference]} was converted from GGUF into {parent.folder}, "
                    f"once, in {memory_text(parent.parameters)} of memory; its weights are those "
                    "of the file, rounded to the dtype of the checkpoint there."
                )


PARTS: tuple[Part, ...] = (Towers(), Modules(), Head(), Predictions(), InFp8(), InGguf())


def parts_of(model: Checkpoint) -> set[str]:
    """Return the names of the parts that a model has, such as `vision` or `modules`."""
    return {name for part in PARTS for name in part.names(model)}


def fitted_parts(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, Checkpoint]:
    """Return the parents as merges of a host use them; raises as `Part.fit`."""

    def fitted(parent: Checkpoint) -> Checkpoint:
        for part in PARTS:
            parent = part.fit(checkpoints[host], parent)
        return parent

    return {name: fitted(parent) for name, parent in checkpoints.items()}


def part_notes(parents: Parents) -> Iterator[str]:
    """Yield what merges leave out of parents and have from the host; see `Part.notes`."""
    for reference, parent in parents.checkpoints.items():
        if parent is not parents.model:
            yield from _exchange(parent, parents.names[reference], parents)
    for part in PARTS:
        yield from part.notes(parents)


def _exchange(parent: Checkpoint, name: str, parents: Parents) -> Iterator[str]:
    """Yield what is left out of a parent, and what it has from the host instead."""
    host, lender = parents.model, parents.names[parents.host]
    left = [*modules_of(parent.lost)]
    lent = []
    for part in PARTS:
        ours, theirs = part.names(host), part.names(parent)
        left += [part.left_out] if part.left_out and theirs and not ours else []
        lent += [part.lent] if part.lent and ours and not theirs else []
    lent += modules_of(parent.lacks)
    clauses = [f"only the body of {name} ({class_of(parent)}) is merged"]
    if left:
        clauses.append(f"its {listed(left)} is left out")
    if lent:
        clauses.append(
            f"the {listed(lent)} of the host {lender} takes its place, also where {name} is scored "
            "or exported alone"
        )
        clauses += [words for part in PARTS for words in part.advice(host, parent)]
    if left or lent:
        yield f"{'; '.join(clauses)}."


def part_facts(parents: Parents) -> dict[str, object]:
    """Return rows of `evomerge validate`; see `Part.facts`."""
    facts: dict[str, object] = {"encoder_decoder": _stacks_in_words(parents)}
    return facts | {key: row for part in PARTS for key, row in part.facts(parents).items()}


def part_differences(one: Checkpoint, other: Checkpoint, needed: Collection[str]) -> list[str]:
    """Return the settings in which two models differ, of the parts that are needed."""
    parts = [part for part in PARTS if part.names(one).keys() & needed]
    return [key for part in parts for key in part.differences(one, other)]


def has_read_head(host: Checkpoint) -> bool:
    """Whether a host has more after its blocks than a pooler.

    Parts that read the last hidden states do not read a pooler.
    """
    return any("pooler" not in name for name, place in host.places.items() if place == "head")


def kind_of(checkpoint: Checkpoint) -> str:
    """Return what a model is for, such as `reward model` or `causal language model that sees`.

    CheckpointError: `id2label` of a classifier is damaged.
    """
    if kind := next(filter(None, (part.kind(checkpoint) for part in PARTS)), None):
        return kind
    senses = [verb for name, verb in _SENSES.items() if name in checkpoint.modalities]
    kind = "causal language model"
    if checkpoint.config.get("is_encoder_decoder"):
        kind = "encoder-decoder"
    elif not has_lm_head(checkpoint):
        masked = any(name.endswith("ForMaskedLM") for name in checkpoint.config["architectures"])
        kind = "masked language model" if masked else "encoder"
    return " ".join([kind, *(["that", " and ".join(senses)] if senses else [])])


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


def _stacks_in_words(parents: Parents) -> str | None:
    host = parents.model
    if not is_encoder_decoder(host) or len(stacks := merged_stacks(host)) < 2:
        return None
    *_, encoder, decoder = map(len, stacks.values())
    fate = "those of the encoder are the host's" if parents.stacks == 1 else "all are merged"
    return f"{encoder} layers of the encoder, {decoder} of the decoder; {fate}"


def _owners(checkpoints: Mapping[str, Checkpoint]) -> dict[Modality, list[str]]:
    """Return each modality of the parents -> those that have it."""
    owners = {
        modality: [name for name, parent in checkpoints.items() if modality in parent.modalities]
        for modality in _MODALITIES
    }
    return {modality: names for modality, names in owners.items() if names}


def _fate(modality: str, owners: Sequence[str], parents: Parents) -> str:
    """Return what becomes of a modality in a merge, given the parents that have it."""
    if parents.host not in owners:
        return "lost, since the host has none"
    if merged := (parents.merged or {}).get(modality):
        return f"merged from {', '.join(merged)}"
    hint = f"; `components: [{modality}]` merges it" if len(owners) > 1 else ""
    return "kept" if parents.is_path else f"kept from the host{hint}"


def shared_modalities(checkpoints: Mapping[str, Checkpoint], host: str) -> dict[str, list[str]]:
    """Return each modality of a host -> the parents whose tensors of it can be merged."""
    model, owners = checkpoints[host], _owners(checkpoints)
    return {
        modality: [
            name
            for name in owners[modality]
            if modality_misfit(model, checkpoints[name], modality) is None
        ]
        for modality in model.modalities
    }


def modality_misfit(host: Checkpoint, parent: Checkpoint, modality: Modality) -> str | None:
    """Return why the tensors of a modality of host and parent cannot be merged; None: they can."""
    fit = TensorNameMap(host, parent)
    own, theirs = (item.modalities.get(modality, ()) for item in (host, parent))
    for name in own:
        shape, name_there = host.tensors[name].shape, fit.modalities.get(name)
        if name_there is None:
            return f"{parent.reference!r} has no counterpart of {name!r} of {host.reference!r}"
        if (other := parent.tensors[name_there].shape) != shape:
            return (
                f"{name!r} has shape {list(shape)} in {host.reference!r} and {list(other)} in "
                f"{parent.reference!r}"
            )
    known = {fit.modalities[name] for name in own}
    if surplus := next((name for name in theirs if name not in known), None):
        return f"{host.reference!r} has no counterpart of {surplus!r} of {parent.reference!r}"
    return None


def check_known(checkpoint: Checkpoint) -> None:
    """Raise a `CheckpointError` unless the installed transformers knows the type of a model."""
    from transformers import __version__
    from transformers.models.auto import configuration_auto

    kind = checkpoint.config.get("model_type")
    if kind not in configuration_auto.CONFIG_MAPPING_NAMES:  # type: ignore[attr-defined]
        raise CheckpointError(
            f"Parent {checkpoint.reference!r}: transformers {__version__} does not know its "
            f"model_type {kind!r}, and code that comes with a model is not run; install a version "
            "that does, or copy config.json from the model that it was made from."
        )


def check_causal(checkpoint: Checkpoint) -> None:
    """Raise a `CheckpointError` unless a model writes texts and transformers knows its type."""
    from transformers.models.auto import modeling_auto

    check_known(checkpoint)
    classes = checkpoint.config.get("architectures") or ["missing"]
    what, writes = "no causal language model", has_lm_head(checkpoint)
    if is_encoder_decoder(checkpoint):
        what = "an encoder-decoder that does not write texts in answer to texts"
        writes = classes[0] in modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()
    if not writes:
        raise CheckpointError(
            f"Parent {checkpoint.reference!r} is {what} (config.json: architectures "
            f"{', '.join(classes)}), as lm-eval's tasks need it; use a model whose architecture "
            "ends in ForCausalLM or ForConditionalGeneration, or other objectives."
        )


def is_encoder_decoder(checkpoint: Checkpoint) -> bool:
    """Whether a model has an encoder, whose output its decoder reads, by its config."""
    parts = (checkpoint.config, checkpoint.text_config)
    return any(part.get("is_encoder_decoder") for part in parts)


def has_lm_head(checkpoint: Checkpoint) -> bool:
    """Whether a model may have a head that writes texts, by the class in its config."""
    names = checkpoint.config.get("architectures") or ()
    return not names or not all(map(_HAS_NO_LM_HEAD.search, names))


def check_chat_template(checkpoint: Checkpoint) -> None:
    """Raise a `CheckpointError` unless the tokenizer in a model's folder has a chat template."""
    if checkpoint.chat_template is None:
        raise CheckpointError(
            "`evaluation.chat_template` is true, but the tokenizer of "
            f"{checkpoint.reference!r} has no chat template; set it to false, or take another base."
        )


def has_tokenizer(checkpoint: Checkpoint) -> bool:
    """Whether a model's folder has files of a tokenizer."""
    return any(file.name in TOKENIZER_FILES for file in checkpoint.companions)


def check_tokenizer(checkpoint: Checkpoint) -> None:
    """Raise a `CheckpointError` unless a model's folder has files of a tokenizer."""
    if not has_tokenizer(checkpoint):
        raise CheckpointError(
            f"Parent {checkpoint.reference!r} has no tokenizer; put tokenizer.json and "
            "tokenizer_config.json beside its weights."
        )
