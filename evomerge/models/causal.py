"""What a model is for, by its config and files, and whether lm-eval's tasks can be scored on it."""

import re

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES
from evomerge.models.heads import classified, labels_of

_SENSES = {"vision": "sees", "audio": "hears"}

_HAS_NO_LM_HEAD = re.compile(
    r"For(MaskedLM|PreTraining|NextSentencePrediction|MultipleChoice|QuestionAnswering|"
    r"(Sequence|Token|Image|Audio)Classification)$|(?<!LMHead)(?<!DoubleHeads)Model$"
)


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


def kind_of(checkpoint: Checkpoint) -> str:
    """Return what a model is for, such as `reward model` or `causal language model that sees`.

    CheckpointError: `id2label` of a classifier is damaged.
    """
    what = classified(checkpoint)
    if checkpoint.modules is not None and checkpoint.modules.obstacle() is None:
        return "sentence encoder"
    if what is not None:
        single = what == "texts" and len(labels_of(checkpoint)) == 1
        return "reward model" if single else f"classifier of {what}"
    senses = [verb for name, verb in _SENSES.items() if name in checkpoint.modalities]
    kind = "causal language model"
    if checkpoint.config.get("is_encoder_decoder"):
        kind = "encoder-decoder"
    elif not has_lm_head(checkpoint):
        masked = any(name.endswith("ForMaskedLM") for name in checkpoint.config["architectures"])
        kind = "masked language model" if masked else "encoder"
    return " ".join([kind, *(["that", " and ".join(senses)] if senses else [])])
