"""Writing a candidate of a run as a checkpoint (`evomerge export`)."""

import os
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import CheckpointError, RecipeError
from evomerge.problem.parents import pinned
from evomerge.problem.parents_as_themselves import is_itself, recipe_to_write
from evomerge.problem.runs import problem_of
from evomerge.run.atomic import TemporaryFolder, check_new_folder, end_replacement, replace_folder
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.ranking import best_merge, best_of

RECIPE = "evomerge_recipe.yaml"
"""File of a model with its recipe, by which evomerge knows what it has written."""


class Exported(NamedTuple):
    """What was written; `not_in_mergekit`: why there is no `mergekit_config.yml`, or None."""

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
    overwrite: bool = False,
) -> Exported:
    """Write a candidate of a run as a Hugging Face checkpoint; see `Run.export`."""
    end_replacement(Path(os.path.realpath(out)))
    if overwrite and os.path.lexists(out):
        out = Path(os.path.realpath(out))  # a link is followed
        parents = {os.path.realpath(it.folder) for it in problem_of(run).checkpoints.values()}
        if (is_parent := str(out) in parents) or not (out / RECIPE).is_file():
            why = f"has no {RECIPE}, so evomerge did not write it and does not replace it"
            why = "is a parent of this search, which needs it" if is_parent else why
            raise CheckpointError(f"{out} {why}; name another folder.")
        with TemporaryFolder(out.parent) as folder:
            exported = export_candidate(run, folder / "new", which, dtype, shard_size)
            replace_folder(folder / "new", out)
        return exported
    from evomerge.export.card import Merge, describe_parents, search_card, task_of
    from evomerge.mergekit import express
    from evomerge.merging.writer import write_model

    check_new_folder(out, "name another folder, or replace it by --overwrite (`overwrite=True`)")
    problem, history = problem_of(run), History(run.events())
    candidate = history.chosen(which, best_of(history, problem.ranking))
    scored = recipe_to_write(problem, candidate)
    recipe = replace(scored, dtype=dtype or scored.dtype)
    texts = {RECIPE: pinned(recipe, problem.checkpoints).to_yaml()}
    reason, notes = None, list[str]()
    try:
        texts["mergekit_config.yml"] = express(recipe, problem.checkpoints)
    except RecipeError as error:
        reason = str(error)
    task = task_of(problem.checkpoints[recipe.host])
    merge = Merge(recipe, describe_parents(problem.checkpoints), reason is None, task)
    how = {"itself": is_itself(problem, candidate), "unchanged": recipe == scored}
    are_prompted = any(it.task and ":" not in it.task for it in problem.config.objectives)
    has_template = problem.checkpoints[problem.tokenizer_giver].chat_template is not None
    is_asked_plainly = has_template and not problem.config.evaluation.chat_template
    how["is_plain"] = are_prompted and is_asked_plainly  # the evaluator may need consent
    if how["itself"]:
        note = f"candidate {candidate.number} is the parent {candidate.label} itself"
        if (best := best_merge(history, problem.ranking)) is not None:
            note += f"; the best merge is candidate {best.number}"
        notes.append(f"{note}.")
    texts |= search_card(merge, run.record(), history, candidate, problem.ranking, **how)
    notes += write_model(
        recipe, problem.checkpoints, out, shard_size=shard_size, texts=texts, copies=True
    )
    return Exported(candidate.number, reason, tuple(notes))
