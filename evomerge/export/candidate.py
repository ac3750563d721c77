"""`evomerge export`: a candidate of a run becomes a checkpoint on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup.runs import chosen_candidate, reopen
from evomerge.setup.strategy import recipe_of


def export_candidate(
    run: RunFolder, out: Path, which: str, dtype: str | None, shard_size: str
) -> int:
    """Write a candidate of a run as a Hugging Face checkpoint and return its number.

    Args:
        run: the run.
        out: new folder.
        which: `best` or the candidate's number.
        dtype: another dtype than the candidate was scored in, or None.
        shard_size: largest file, such as `5GB`.

    Raises:
        InputError: no such candidate, a parent has changed, the folder exists, the disk is too
            small.
    """
    from evomerge.export.card import model_card
    from evomerge.merge.backend import write
    from evomerge.mergekit import to_mergekit

    problem, history = reopen(run), History(run.events())
    candidate = chosen_candidate(problem, history, which)
    recipe = recipe_of(problem.space, candidate)
    if dtype is not None:
        recipe = replace(recipe, dtype=dtype)
    texts = {"evomerge_recipe.yaml": recipe.to_yaml()}
    mergekit = to_mergekit(recipe, problem.checkpoints)
    if mergekit is not None:
        texts["mergekit_config.yml"] = mergekit
    texts["README.md"] = model_card(
        problem.config,
        history,
        candidate,
        recipe,
        problem.objectives,
        mergekit=mergekit is not None,
    )
    write(recipe, problem.checkpoints, out, shard_size=shard_size, texts=texts)
    return candidate.number
