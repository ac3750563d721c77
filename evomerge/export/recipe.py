"""Building the model of a recipe file, evomerge's or mergekit's (`evomerge merge`)."""

import platform
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from evomerge.errors import RecipeError
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
from evomerge.run.atomic import check_new_folder


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
