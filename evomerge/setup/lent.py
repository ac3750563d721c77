"""What a parent takes from the merges because it has none of its own: tokenizer, chat template.

It is scored with this, so it is exported with it too if it wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Literal, TypeAlias

from evomerge.models.causal import has_tokenizer
from evomerge.recipe import Recipe
from evomerge.report.words import listed
from evomerge.setup.checked import CheckedSearch

Part: TypeAlias = Literal["tokenizer", "chat template"]


def lent_part(checked: CheckedSearch, reference: str) -> Part | None:
    """Return what a parent takes from the merges; None: it has all that the tasks need.

    Args:
        checked: the checked search of the run.
        reference: the parent.
    """
    from evomerge.evaluation.tasks.functions import is_function
    from evomerge.merging.tokenizers.chat_template import template_of

    config, checkpoint = checked.config, checked.checkpoints[reference]
    if not has_tokenizer(checkpoint):
        return "tokenizer"
    uses_templates = config.evaluation.chat_template or any(map(is_function, config.tasks))
    giver = checked.checkpoints[giver_of(checked)]
    if not uses_templates or template_of(checkpoint) is not None or template_of(giver) is None:
        return None
    return "chat template"


def giver_of(checked: CheckedSearch) -> str:
    """Return the parent that tokenizer and chat template of the merges come from."""
    wanted = checked.config.tokenizer
    return wanted if wanted in checked.checkpoints else checked.host


def with_lent(checked: CheckedSearch, recipe: Recipe) -> Recipe:
    """Return the recipe of a parent itself, with what the parent takes from the merges.

    Args:
        checked: the checked search of the run.
        recipe: the recipe of the parent, without any change.
    """
    from evomerge.merging.tokenizers.chat_template import template_of

    part, giver = lent_part(checked, recipe.host), giver_of(checked)
    if part is None:
        return recipe
    if part == "tokenizer":  # only `tokenizer: base` takes parents without one
        return replace(recipe, tokenizer=giver, vocabulary=(giver,))
    if checked.config.tokenizer == "base":
        return replace(recipe, options={"chat_template": giver}, vocabulary=(giver,))
    # The vocabularies may not fit, so the giver cannot be a parent of the recipe.
    text = template_of(checked.checkpoints[giver]) or ""
    return replace(recipe, options={"chat_template": text})


def lent_notes(checked: CheckedSearch, names: Mapping[str, str]) -> list[str]:
    """Return a sentence for each part that parents take from the merges.

    Args:
        checked: the checked search of a search.
        names: reference of a parent -> its name in a sentence.
    """
    lacking: dict[Part, list[str]] = {}
    for reference in checked.config.parents:
        if (part := lent_part(checked, reference)) is not None:
            lacking.setdefault(part, []).append(names[reference])
    giver = names[giver_of(checked)]
    return [
        f"{listed(parents)} {'has' if len(parents) == 1 else 'have'} no {part} and "
        f"{'takes' if len(parents) == 1 else 'take'} that of {giver}, also on validation and test "
        "documents and in the export of a parent that wins."
        for part, parents in lacking.items()
    ]
