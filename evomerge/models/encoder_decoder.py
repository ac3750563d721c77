"""Models with an encoder and a decoder: which block stacks a search merges, what runs them."""

from __future__ import annotations

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stacks import Stack


def is_encoder_decoder(checkpoint: Checkpoint) -> bool:
    """Whether a model has an encoder, whose output its decoder reads, by its config."""
    parts = (checkpoint.config, checkpoint.text_config)
    return any(part.get("is_encoder_decoder") for part in parts)


def check_writes(checkpoint: Checkpoint) -> None:
    """Raise a `CheckpointError` unless an encoder-decoder writes texts in answer to texts."""
    from transformers.models.auto import modeling_auto

    writing = modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES.values()
    given = checkpoint.config.get("architectures") or ["missing"]
    if given[0] not in writing:
        raise CheckpointError(
            f"Parent {checkpoint.reference!r} is an encoder-decoder that does not write texts in "
            f"answer to texts (config.json: architectures {given[0]}), as lm-eval's tasks need it; "
            "use a model that transformers loads by AutoModelForSeq2SeqLM, or other objectives."
        )


def merged_stacks(checkpoint: Checkpoint) -> dict[str, Stack]:
    """Return the block stacks that a search merges, by prefix; the decoder's is the last.

    Of an encoder-decoder they are the encoder's and the decoder's, of another model the only one.
    """
    decoder = checkpoint.decoder_stack
    encoders = {
        prefix: stack
        for prefix, stack in checkpoint.language.items()
        if is_encoder_decoder(checkpoint) and stack is not decoder and "encoder" in prefix
    }
    return {**encoders, decoder.prefix: decoder}
