"""What a model is for, by its config and the names of its tensors."""

from __future__ import annotations

from evomerge.models.causal import has_lm_head
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import classified, labels_of

_SENSES = {"vision": "sees", "audio": "hears"}


def kind_of(checkpoint: Checkpoint) -> str:
    """Return what a model is for, such as `reward model` or `causal language model that sees`.

    Raises:
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
