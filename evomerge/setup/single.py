"""Loading one model with settings of its own: what `evomerge evaluate` scores, and parents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.models.causal import has_tokenizer
from evomerge.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from evomerge.merging.architecture.placement import Placement


def load_single(
    config: SearchConfig,
    checkpoint: Checkpoint,
    where: Placement,
    lacking: Callable[[], Any] | None = None,
) -> tuple[Any, Any]:
    """Return a model with its own config and dtype, and its own tokenizer.

    Args:
        config: the search file; it has the dtype of a model with an adapter.
        checkpoint: the model.
        where: its placement.
        lacking: returns the tokenizer that a model takes which has none, and of which one takes the
            chat template that has a tokenizer without; None: each must have its own.

    Raises:
        CheckpointError: the model or its tokenizer cannot be loaded.
    """
    from evomerge.evaluation.tasks.functions import is_function
    from evomerge.merging.backend import load, tokenizer_of

    stored = as_stored(checkpoint)
    functions_only = all(map(is_function, config.tasks))
    model = load(stored, where, config.dtype, causal=not functions_only)
    if lacking is not None and not has_tokenizer(stored):
        return model, lacking()
    tokenizer = tokenizer_of(stored)
    if lacking is not None and tokenizer.chat_template is None:
        tokenizer.chat_template = lacking().chat_template
    return model, tokenizer


def as_stored(checkpoint: Checkpoint) -> Checkpoint:
    """Return a parent with the names that its tensors have on disk."""
    stored = checkpoint.original
    return checkpoint if stored is None else replace(stored, reference=checkpoint.reference)
