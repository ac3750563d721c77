"""Writing a candidate of a run as a checkpoint (`evomerge export`)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.writable import check_new_folder
from evomerge.searching.ranking import best_of
from evomerge.setup.merges import pinned
from evomerge.setup.parents import absolute_recipe
from evomerge.setup.parents_as_themselves import is_itself, recipe_to_write, write_model
from evomerge.setup.runs import reopen
from evomerge.setup.weight_digests import check_weights


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        number: number of the candidate.
        not_in_mergekit: why there is no `mergekit_config.yml`; None if there is one.
        notes: sentences for a person; see `evomerge.merging.backend.write`.
    """

    number: int
    not_in_mergekit: str | None
    notes: tuple[str, ...]


def export_candidate(
    run: RunFolder,
    out: Path,
    which: str,
    dtype: str | None,
    shard_size: str,
    *,
    allow_pickle: bool = False,
) -> Exported:
    """Write a candidate of a run as a Hugging Face checkpoint.

    Args:
        run: the run.
        out: folder to create; it must not exist.
        which: `best` or the candidate's number.
        dtype: dtype of the checkpoint, or None for the one that the candidate was scored in.
        shard_size: largest size of a weight file, such as `5GB`.
        allow_pickle: accept parents with pickled weights, even if the run was not started here.

    Raises:
        InputError: there is no such candidate, a parent has changed, `out` exists, or the disk
            does not have enough room.
    """
    from evomerge.export.card import Merge, search_card
    from evomerge.export.parents import describe_parents
    from evomerge.mergekit import express

    check_new_folder(out)
    checked, history = reopen(run, allow_pickle=allow_pickle), History(run.events())
    candidate = history.chosen(which, best_of(history, checked.ranking))
    recipe = recipe_to_write(checked, candidate, history.candidates)
    own = recipe.dtype
    if dtype is not None:
        recipe = replace(recipe, dtype=dtype)
    check_weights(run, {name: checked.checkpoints[name] for name in recipe.parents})
    written = pinned(recipe, checked.checkpoints, checked.merges)
    texts = {"evomerge_recipe.yaml": absolute_recipe(written, run.path).to_yaml()}
    reason = None
    try:
        texts["mergekit_config.yml"] = express(recipe, checked.checkpoints)
    except RecipeError as error:
        reason = str(error)
    parents = describe_parents(checked.checkpoints, checked.checkpoints, checked.merges)
    merge = Merge(recipe, parents, reason is None, allow_pickle=checked.allow_pickle)
    texts |= search_card(
        merge,
        checked.config,
        history,
        candidate,
        checked.ranking,
        itself=is_itself(checked, candidate),
        unchanged=dtype in (None, own),
    )
    notes = write_model(
        recipe, checked.checkpoints, out, run=run.path, shard_size=shard_size, texts=texts
    )
    return Exported(candidate.number, reason, notes)
