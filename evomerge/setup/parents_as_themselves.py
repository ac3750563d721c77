"""Parents as they are themselves, which a recipe of the space, with the host's settings, is not.

On search documents the baseline of a parent is a candidate like the others: the optimizer needs the
value of its genome. On validation and test documents it is the parent itself that is scored, and
it is the parent itself that is written if it wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal, TypeAlias

from evomerge.models.causal import has_tokenizer
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.report.words import listed
from evomerge.run.history import Candidate
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.settings import with_settings
from evomerge.setup.strategy import recipe_of
from evomerge.setup.worker import as_stored, members_folder


def recipe_to_write(
    checked: CheckedSearch, candidate: Candidate, candidates: Sequence[Candidate]
) -> Recipe:
    """Return the recipe of what is exported for a candidate: of a parent, the parent itself.

    A parent without a tokenizer or chat template has the one of the merges, which it is scored
    with. Of a parent in a run of an earlier version it is what was scored there.

    Args:
        checked: the checked search of the run.
        candidate: the candidate.
        candidates: all candidates of the run by number.

    Raises:
        SearchError: the digest of the candidate's recipe is not the one in the journal.
    """
    if is_itself(checked, candidate):
        return with_lent(checked, unchanged_parent(checked, str(candidate.label)))
    return recipe_of(checked.space, candidate, candidates)


def is_itself(checked: CheckedSearch, candidate: Candidate) -> bool:
    """Return whether a parent itself is exported for a candidate."""
    is_parent = candidate.label in checked.config.parents
    return is_parent and (checked.unlike_merges is not None or bool(candidate.as_itself))


def unchanged_parent(checked: CheckedSearch, reference: str) -> Recipe:
    """Return the recipe of a parent itself, in the dtype that it is stored in."""
    from evomerge.merging.backend import stored_dtype, unchanged

    checkpoint = as_stored(checked.checkpoints[reference])
    return unchanged(checkpoint, stored_dtype(checkpoint, checked.config.dtype))


def parents_as_themselves(checked: CheckedSearch) -> Callable[[Candidate], Recipe | None]:
    """Return what tells of a candidate whether it is scored as a parent itself in the finals.

    Args:
        checked: the checked search of the run.

    Returns:
        A function: candidate -> recipe of the parent itself; None if the candidate is no parent, or
        one that has all settings of the merges, so that its recipe builds the parent itself.
    """
    found: dict[str, Recipe] = {}
    unlike = checked.unlike_merges

    def recipe(candidate: Candidate) -> Recipe | None:
        nonlocal unlike
        label = candidate.label
        if label is None or label not in checked.config.parents:
            return None
        if unlike is None:  # a run of an earlier version
            unlike = with_settings(checked).unlike_merges or ()
        if label in unlike and label not in found:
            found[label] = unchanged_parent(checked, label)
        return found.get(label)

    return recipe


def write_model(
    recipe: Recipe,
    checkpoints: Mapping[str, Checkpoint],
    out: Path,
    *,
    run: Path,
    shard_size: str = "5GB",
    texts: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Write the model of a recipe of a run; see `evomerge.merging.backend.write`.

    The files of a parent itself are copied.

    Args:
        recipe: the recipe.
        checkpoints: the parents by reference.
        out: folder to create; it must not exist.
        run: the run folder.
        shard_size: largest size of a weight file that is not copied.
        texts: more text files to write: name -> text.
    """
    from evomerge.merging.backend import copy, stored_dtype, unchanged, write
    from evomerge.merging.tokenizers.plan import plan_tokenizer

    plan, plain = plan_tokenizer(recipe, checkpoints), replace(recipe, vocabulary=())
    if plan.rows is None and plain.parents == (recipe.host,):
        host = as_stored(checkpoints[recipe.host])
        checkpoints = {**checkpoints, recipe.host: host}  # its tensors keep their own names
        plain = replace(plain, tokenizer="base", options={})
        if host.adapter is None and plain == unchanged(host, stored_dtype(host, recipe.dtype)):
            return copy(host, out, {**plan.files, **(texts or {})})
    folder = members_folder(run)
    return write(recipe, checkpoints, out, shard_size=shard_size, texts=texts, folder=folder)


Part: TypeAlias = Literal["tokenizer", "chat template"]


def lent_part(checked: CheckedSearch, reference: str) -> Part | None:
    """Return what a parent takes from the merges; None: it has all that the tasks need.

    Args:
        checked: the checked search of the run.
        reference: the parent.
    """
    from evomerge.evaluation.tasks.functions import is_function
    from evomerge.merging.tokenizers.templates import template_of

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
    from evomerge.merging.tokenizers.templates import template_of

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
