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
            f"answer to texts ({given[0]}); use one that does, or other objectives."
        )


def merged_stacks(checkpoint: Checkpoint) -> dict[str, Stack]:
    """Return the block stacks that a search merges, by prefix: an encoder's, then the decoder's."""
    decoder, language = checkpoint.decoder_stack, checkpoint.language
    of_encoder = (name for name in language if "encoder" in name and name != decoder.prefix)
    names = [*(of_encoder if is_encoder_decoder(checkpoint) else ()), decoder.prefix]
    return {name: language[name] for name in names}
