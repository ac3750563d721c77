"""Building the model of a recipe file, evomerge's or mergekit's (`evomerge merge`)."""

from __future__ import annotations

import platform
from importlib.metadata import version
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.merging.methods import get_method
from evomerge.models.correspondence import prediction_notes, type_notes
from evomerge.models.encoder_decoder import is_encoder_decoder
from evomerge.models.references import MERGE, is_file, is_folder, place, split_adapter, split_kind
from evomerge.run.atomic import TemporaryFolder, check_new_folder
from evomerge.setup.classifiers import head_notes
from evomerge.setup.encoders import differing_modules, module_notes
from evomerge.setup.merges import MergeOpener, pinned
from evomerge.setup.parents import absolute_parent, is_winner_of_stage, renamed_recipe
from evomerge.setup.recipe_file import read_recipe_file
from evomerge.setup.runs import open_model


def merge_recipe(
    file: Path,
    out: Path,
    memory: str,
    shard_size: str,
    *,
    allow_pickle: bool = False,
    strict: bool = False,
    truncate: bool = False,
) -> tuple[str, ...]:
    """Write the model of a recipe file or mergekit config, without holding it in memory as a whole.

    A model card and the recipe are written beside it, and a mergekit config if there is one that
    makes the same model. Relative paths in the file are looked up in the working folder first, then
    in the folder of the file. For arguments and errors see `evomerge.merge`. The sentences that are
    returned say what mergekit ignores in its config, and what was decided because parents differ.
    """
    from evomerge.export.card import Merge, merge_card
    from evomerge.export.metadata import task_of
    from evomerge.export.parents import describe_parents
    from evomerge.mergekit import to_mergekit
    from evomerge.merging.backend import write

    check_new_folder(out)
    with TemporaryFolder() as models:
        opener = MergeOpener(open_model, models=models)
        content = read_recipe_file(
            file,
            lambda name, pin: opener(
                name, _start_of(name, file), allow_pickle=allow_pickle, pin=pin
            ),
            truncate=truncate,
        )
        recipe, checkpoints = content.recipe, content.checkpoints
        notes = [*content.notes, *(note for item in opener.found.values() for note in item.notes)]
        if strict and notes:
            raise RecipeError(
                f"`--strict` allows no warnings, but {file} has {len(notes)}: {' '.join(notes)}"
            )
        names = {name: absolute_parent(name, _start_of(name, file)) for name in recipe.parents}
        pins = pinned(recipe, checkpoints, opener.named)
        extra = {"evomerge_recipe.yaml": renamed_recipe(pins, names).to_yaml()}
        known = all(get_method(layer.method).in_mergekit for layer in recipe.every_layer())
        named = {name for item in opener.found.values() for name in item.names} | {*recipe.parents}
        ours = any(split_kind(name)[0] for name in named)
        if content.mergekit and known and not ours:
            mergekit: str | None = content.mergekit
        else:  # a parent that is a merge was built in a folder that is removed
            merges = any(name.startswith(MERGE) for name in recipe.parents)
            mergekit = None if merges else to_mergekit(recipe, checkpoints)
        if mergekit is not None:
            extra["mergekit_config.yml"] = mergekit
        parents = describe_parents(recipe.parents, checkpoints, opener.named)
        host = checkpoints[recipe.host]
        shown_as = (task_of(host), allow_pickle, is_encoder_decoder(host))
        merge = Merge(recipe, parents, mergekit is not None, *shown_as)
        extra |= merge_card(merge, _versions())
        every = [checkpoints[name] for name in (recipe.host, *recipe.parents)]
        notes += type_notes(checkpoints[name] for name in recipe.parents)
        shown = {name: repr(name) for name in checkpoints}
        notes += module_notes(dict.fromkeys(every), shown)
        if every[0].modules is not None:
            notes += differing_modules(dict.fromkeys(every), shown)
        notes += head_notes(dict.fromkeys(every), shown)
        notes += prediction_notes(n for n in recipe.parents if checkpoints[n].predictions)
        notes += write(recipe, checkpoints, out, memory=memory, shard_size=shard_size, texts=extra)
        return tuple(notes)


def _start_of(reference: str, file: Path) -> Path:
    """Return the folder that a relative path in a recipe file starts from."""
    if is_winner_of_stage(reference):  # in the recipe of a stage
        return file.parent
    kind, path = split_kind(reference)
    there = place(path if kind else split_adapter(path, Path.cwd())[0], Path.cwd())
    return Path.cwd() if is_folder(there) or is_file(there) else file.parent


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the bits of a merge may depend on."""
    packages = ("evomerge", "torch", "transformers", "numba", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
