"""The keys of a mergekit file for tokenizer and chat template, and its references of parents."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError
from evomerge.merging.tokenizers.rows import TRUNCATE
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import is_from_hub
from evomerge.models.references import split_adapter
from evomerge.parsing.values import replaced
from evomerge.recipe import Recipe


def mergekit_reference(checkpoint: Checkpoint) -> str:
    """Return the reference of a parent in mergekit's files.

    It is the Hub id for a model in the cache of the Hub, or else the absolute path of the folder;
    `+` and the same for the adapter follow, if there is one.
    """
    model, _, adapter = split_adapter(checkpoint.reference, Path.cwd())
    if not is_from_hub(checkpoint.folder):
        model = str(checkpoint.folder.resolve())
    if checkpoint.adapter is None:
        return model
    if not is_from_hub(checkpoint.adapter):
        adapter = str(checkpoint.adapter.resolve())
    return f"{model}+{adapter}"


def tokenizer_keys(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """Return mergekit's keys `tokenizer` and `chat_template`; a key that is not needed is left out.

    Raises:
        RecipeError: mergekit would make another vocabulary.
    """
    options = recipe.options
    if TRUNCATE in options:
        raise RecipeError(
            "The recipe cuts off rows of embeddings, for which mergekit has no key, but the option "
            "--unsafe-truncate-embeddings."
        )
    found: dict[str, Any] = {}
    if recipe.tokenizer != "base":
        _check_vocabulary(recipe, checkpoints)
        named = {name: mergekit_reference(parent) for name, parent in checkpoints.items()}
        keys = found["tokenizer"] = {"source": named.get(recipe.tokenizer, "union")}
        if "tokens" in options:
            tokens = json.loads(options["tokens"])
            keys["tokens"] = replaced(tokens, lambda value: named.get(value, value))
        if "pad_to_multiple_of" in options:
            keys["pad_to_multiple_of"] = int(options["pad_to_multiple_of"])
    template = options.get("chat_template", "")
    if template in checkpoints:
        from evomerge.merging.tokenizers.templates import template_of

        template = template_of(checkpoints[template]) or ""
    return found | ({"chat_template": template} if template else {})


def _check_vocabulary(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Check that the recipe's `vocabulary` is what its merged parents give without it."""
    from evomerge.merging.tokenizers.plan import plan_tokenizer

    ours = plan_tokenizer(recipe, checkpoints)
    if ours.rows is None:
        raise RecipeError(
            "The recipe gives a tokenizer to a parent that has none, which a mergekit file cannot "
            "express."
        )
    theirs = plan_tokenizer(replace(recipe, vocabulary=()), checkpoints)
    assert theirs.rows is not None
    alike = all(ours.rows.index[name] == index for name, index in theirs.rows.index.items())
    if not alike or ours.files != theirs.files or ours.rows.filling != theirs.rows.filling:
        raise RecipeError(
            "The recipe's vocabulary has tokens of parents that it does not merge, which a "
            "mergekit file cannot express."
        )
