"""Parents as they are themselves, which a recipe of the space, with the host's settings, is not.

On search documents the baseline of a parent is a candidate like the others: the optimizer needs the
value of its genome. On validation and test documents it is the parent itself that is scored, and
it is the parent itself that is written if it wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from evomerge.models.causal import has_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.report.words import listed
from evomerge.run.history import BASE, Candidate
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.modalities import sees_by_host
from evomerge.setup.strategy import recipe_of
from evomerge.setup.tasks import uses_templates
from evomerge.setup.worker import as_stored

Part: TypeAlias = Literal["tokenizer", "chat template"]


def recipe_to_write(checked: CheckedSearch, candidate: Candidate) -> Recipe:
    """Return the recipe of what is exported for a candidate: of a parent, the parent itself.

    A parent without a tokenizer or chat template has the one of the merges, which it is scored
    with.

    Raises:
        SearchError: the digest of the candidate's recipe is not the one in the journal.
    """
    if is_itself(checked, candidate):
        return _with_lent(checked, _unchanged_parent(checked, str(candidate.label)))
    return recipe_of(checked.space, candidate)


def is_itself(checked: CheckedSearch, candidate: Candidate) -> bool:
    """Return whether a parent itself is exported for a candidate.

    A parent without the modules, the head or the tower that it was scored with is exported as a
    merge, which has them.
    """
    label = candidate.label
    return label in checked.config.parents and not _borrows(checked, str(label))


def _borrows(checked: CheckedSearch, reference: str) -> bool:
    """Return whether a parent is scored with modules, head or tower of the host."""
    parent = checked.checkpoints[reference]
    lacks_modules = bool(checked.config.encoders) and parent.modules is None
    return bool(parent.lacks) or lacks_modules or sees_by_host(checked, reference)


def _unchanged_parent(checked: CheckedSearch, reference: str) -> Recipe:
    """Return the recipe of a parent itself, in the dtype that it is stored in."""
    from evomerge.merging.backend import stored_dtype, unchanged

    checkpoint = as_stored(checked.checkpoints[reference])
    return unchanged(checkpoint, stored_dtype(checkpoint, checked.config.dtype))


def parents_as_themselves(checked: CheckedSearch) -> Callable[[Candidate], Recipe | None]:
    """Return what tells of a candidate whether it is scored as a parent itself in the finals.

    Returns:
        A function: candidate -> recipe of the parent itself; None if the candidate is no parent, or
        one that has all settings of the merges, so that its recipe builds the parent itself.
    """

    def recipe(candidate: Candidate) -> Recipe | None:
        label = candidate.label
        if label is None or not (label in checked.unlike_merges or candidate.number == BASE):
            return None
        return _unchanged_parent(checked, label)

    return recipe


def base_to_test(checked: CheckedSearch) -> list[Candidate]:
    """Return the base, if it is no parent and can be scored as it is."""
    base = checked.config.base
    if base is None or base in checked.config.parents or _borrows(checked, base):
        return []
    return [Candidate(BASE, base, _unchanged_parent(checked, base).digest)]


def write_model(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    out: Path,
    *,
    shard_size: str = "5GB",
    texts: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Write the model of a recipe of a run; see `evomerge.merging.backend.write`.

    The files of a parent itself are copied, unless its weights were converted; `shard_size` is that
    of the others.
    """
    from evomerge.merging.backend import stored_dtype, unchanged, write
    from evomerge.merging.tokenizers.plan import plan_tokenizer
    from evomerge.merging.writer import copy_model

    plan, plain = plan_tokenizer(recipe, checkpoints), replace(recipe, vocabulary=())
    if plan.rows is None and plain.parents == (recipe.host,):
        host = as_stored(checkpoints[recipe.host])
        checkpoints = {**checkpoints, recipe.host: host}  # its tensors keep their own names
        plain = replace(plain, tokenizer="base", options={})
        has_files = all(file.is_relative_to(host.folder) for file in host.weight_files)
        is_plain = host.adapter is None and has_files
        if is_plain and plain == unchanged(host, stored_dtype(host, recipe.dtype)):
            return copy_model(host, out, {**plan.files, **(texts or {})})
    return write(recipe, checkpoints, out, shard_size=shard_size, texts=texts)


def _lent_part(checked: CheckedSearch, reference: str) -> Part | None:
    """Return what a parent takes from the merges; None: it has all that the tasks need."""
    from evomerge.merging.tokenizers.templates import template_of

    config, checkpoint = checked.config, checked.checkpoints[reference]
    if not has_tokenizer(checkpoint):
        return "tokenizer"
    giver = checked.checkpoints[checked.tokenizer_giver]
    if (
        not uses_templates(config)
        or template_of(checkpoint) is not None
        or template_of(giver) is None
    ):
        return None
    return "chat template"


def _with_lent(checked: CheckedSearch, recipe: Recipe) -> Recipe:
    """Return the recipe of a parent itself, with what the parent takes from the merges."""
    from evomerge.merging.tokenizers.templates import template_of

    part, giver = _lent_part(checked, recipe.host), checked.tokenizer_giver
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
        names: reference of a parent -> its name in a sentence.
    """
    lacking: dict[Part, list[str]] = {}
    for reference in checked.config.parents:
        if (part := _lent_part(checked, reference)) is not None:
            lacking.setdefault(part, []).append(names[reference])
    giver = names[checked.tokenizer_giver] if lacking else ""
    return [
        f"{listed(parents)} {'has' if len(parents) == 1 else 'have'} no {part} and "
        f"{'takes' if len(parents) == 1 else 'take'} that of {giver}, also on validation and test "
        "documents and in the export of a parent that wins."
        for part, parents in lacking.items()
    ]
