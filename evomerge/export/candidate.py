"""Writing a candidate of a run as a checkpoint (`evomerge export`)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.writable import check_new_folder
from evomerge.setup.runs import chosen_candidate, reopen
from evomerge.setup.strategy import recipe_of
from evomerge.setup.worker import members_folder


def export_candidate(
    run: RunFolder,
    out: Path,
    which: str,
    dtype: str | None,
    shard_size: str,
    *,
    allow_pickle: bool = False,
) -> tuple[int, tuple[str, ...]]:
    """Write a candidate of a run as a Hugging Face checkpoint.

    Args:
        run: the run.
        out: folder to create; it must not exist.
        which: `best` or the candidate's number.
        dtype: dtype of the checkpoint, or None for the one that the candidate was scored in.
        shard_size: largest size of a weight file, such as `5GB`.
        allow_pickle: accept parents with pickled weights, even if the run was not started here.

    Returns:
        the candidate's number, and sentences for a person; see `evomerge.merging.backend.write`.

    Raises:
        InputError: there is no such candidate, a parent has changed, `out` exists, or the disk
            does not have enough room.
    """
    from evomerge.export.card import Merge, search_card
    from evomerge.export.parents import describe_parents
    from evomerge.mergekit import to_mergekit
    from evomerge.merging.backend import write

    check_new_folder(out)
    problem, history = reopen(run, allow_pickle=allow_pickle), History(run.events())
    candidate = chosen_candidate(problem, history, which)
    recipe = recipe_of(problem.space, candidate, history.candidates)
    if dtype is not None:
        recipe = replace(recipe, dtype=dtype)
    texts = {"evomerge_recipe.yaml": recipe.to_yaml()}
    mergekit = to_mergekit(recipe, problem.checkpoints)
    if mergekit is not None:
        texts["mergekit_config.yml"] = mergekit
    parents = describe_parents(problem.checkpoints, problem.checkpoints, problem.merges)
    merge = Merge(recipe, parents, mergekit=mergekit is not None)
    texts |= search_card(merge, problem.config, history, candidate, problem.ranking)
    folder = members_folder(run.path)
    notes = write(
        recipe, problem.checkpoints, out, shard_size=shard_size, texts=texts, folder=folder
    )
    return candidate.number, notes
