"""`evomerge export`: a candidate of a run becomes a checkpoint on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from evomerge.build import reopen
from evomerge.run.folder import RunFolder
from evomerge.run.history import History


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
    from evomerge.interop import to_mergekit
    from evomerge.merge.assemble import write
    from evomerge.report.card import model_card

    setup, history = reopen(run), History(run.events())
    candidate = history.chosen(which, run.path)
    recipe = setup.recipe(candidate)
    if dtype is not None:
        recipe = replace(recipe, dtype=dtype)
    texts = {
        "README.md": model_card(setup.config, history, candidate, recipe, setup.objectives),
        "evomerge_recipe.yaml": recipe.to_yaml(),
    }
    mergekit = to_mergekit(recipe, setup.checkpoints)
    if mergekit is not None:
        texts["mergekit_config.yml"] = mergekit
    write(recipe, setup.checkpoints, out, shard_size=shard_size, texts=texts)
    return candidate.number
