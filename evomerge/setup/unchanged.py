"""Parents as they are themselves, which a recipe of the space, with the host's settings, is not.

On search documents the baseline of a parent is a candidate like the others: the optimizer needs the
value of its genome. On validation and test documents it is the parent itself that is scored, and
it is the parent itself that is written if it wins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.lent import with_lent
from evomerge.setup.settings import with_settings
from evomerge.setup.single import as_stored
from evomerge.setup.strategy import recipe_of
from evomerge.setup.worker import members_folder


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
