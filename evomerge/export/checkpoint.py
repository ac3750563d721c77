"""Writing checkpoints: a candidate of a run (`evomerge export`), or the model of a recipe file,
evomerge's or mergekit's (`evomerge merge`)."""

import os
import platform
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.methods import get_method
from evomerge.models.correspondence import type_notes
from evomerge.models.part import Parents
from evomerge.models.parts import part_notes
from evomerge.problem.parents import (
    absolute_parent,
    pinned,
    read_recipe_file,
    renamed_recipe,
    start_of,
)
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


def merge_recipe(
    file: Path,
    out: Path,
    memory: str,
    shard_size: str,
    *,
    strict: bool = False,
    truncate: bool = False,
) -> tuple[str, ...]:
    """Write the model of a recipe file or mergekit config; see `evomerge.merge`.

    A model card and the recipe are written beside it, and a mergekit config if there is one that
    makes the same model. The sentences that are returned say what mergekit ignores in its config,
    and what was decided because parents differ.
    """
    from evomerge.export.card import Merge, describe_parents, merge_card, task_of
    from evomerge.mergekit import express
    from evomerge.merging.writer import write_model

    check_new_folder(out)
    read = read_recipe_file(file, truncate=truncate)
    if strict and read.notes:
        raise RecipeError(
            f"`--strict` allows no warnings, but {file} has {len(read.notes)}: "
            f"{' '.join(read.notes)}"
        )
    recipe, checkpoints, notes = read.recipe, read.checkpoints, [*read.notes]
    names = {name: absolute_parent(name, start_of(name, file)) for name in recipe.parents}
    extra = {"evomerge_recipe.yaml": renamed_recipe(pinned(recipe, checkpoints), names).to_yaml()}
    known = all(get_method(layer.method).in_mergekit for layer in recipe.every_layer())
    mergekit = read.mergekit if known else None
    with suppress(RecipeError):
        mergekit = mergekit or express(recipe, checkpoints)
    if mergekit is not None:
        extra["mergekit_config.yml"] = mergekit
    parents = describe_parents({name: checkpoints[name] for name in recipe.parents})
    task = task_of(checkpoints[recipe.host])
    # What the bits of a merge may depend on.
    versions = {name: version(name) for name in ("evomerge", "torch", "transformers", "numba")}
    versions = {"python": platform.python_version(), **versions, "numpy": version("numpy")}
    extra |= merge_card(Merge(recipe, parents, mergekit is not None, task), versions)
    merged = {name: checkpoints[name] for name in recipe.parents}
    notes += type_notes(merged.values())
    notes += part_notes(Parents(merged, recipe.host, {name: repr(name) for name in merged}))
    notes += write_model(
        recipe, checkpoints, out, memory=memory, shard_size=shard_size, texts=extra
    )
    return tuple(notes)
