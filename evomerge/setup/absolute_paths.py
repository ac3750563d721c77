"""Making references absolute, so that a run can be resumed from anywhere.

Only a stage names the winners of earlier stages by paths that are relative to its own folder, so
that the folder of a search in stages can be moved.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.errors import RecipeError
from evomerge.models.references import MERGE, RUN, is_file, is_folder, place, split_adapter
from evomerge.parsing.texts import json_value
from evomerge.recipe import Recipe
from evomerge.run.folder import STAGES, RunFolder, stage_folder

_OF_STAGE = re.compile(r"run:\.\./stage-[0-9]+")


def winner_of_stage(number: int) -> str:
    """Return the reference by which a later stage names the winner of a stage.

    It is relative to the folder of the later stage.

    Args:
        number: number of the stage, from 1.
    """
    return RUN + str(stage_folder(Path(".."), number))


def is_winner_of_stage(reference: str) -> bool:
    """Return whether a reference is one that `winner_of_stage` returns."""
    return _OF_STAGE.fullmatch(reference) is not None


def absolute_recipe(recipe: Recipe, folder: Path) -> Recipe:
    """Return a recipe that can be written to another folder: winners of stages by absolute paths.

    Args:
        recipe: a recipe of a run.
        folder: the run folder.
    """
    names = {item: item for item in recipe.parents if is_winner_of_stage(item)}
    if not names:
        return recipe
    names = {item: RUN + str(place(item.removeprefix(RUN), folder).resolve()) for item in names}
    return renamed_recipe(recipe, names)


def renamed_recipe(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """Return a recipe in which parents have other names.

    Args:
        recipe: the recipe.
        names: name in the recipe -> the new one.
    """
    if tokens := recipe.options.get("tokens"):  # mergekit's mapping as JSON, which names parents
        plain = json_value(tokens, "The option `tokens`", RecipeError)
        text = json.dumps(_renamed(plain, names), separators=(",", ":"))
        recipe = replace(recipe, options={**recipe.options, "tokens": text})
    return Recipe.from_dict(_renamed(recipe.to_dict(), names))


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [_renamed(item, names) for item in value]
    return names.get(value, value) if isinstance(value, str) else value


def absolute_folder(path: str, relative_to: Path) -> str:
    """Return the absolute path of a folder; the text itself if there is no such folder.

    Args:
        path: path of a folder, or any other text, such as a Hub id.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
    """
    for folder in (relative_to, Path.cwd()):
        found = place(path, folder)
        if is_folder(found):
            return str(found.resolve())
    return path


def absolute_file(path: str, relative_to: Path) -> str:
    """Return the absolute path of a file; the text itself if there is no such file.

    Args:
        path: path of a file.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
    """
    files = (place(path, folder) for folder in (relative_to, Path.cwd()))
    return next((str(file.resolve()) for file in files if is_file(file)), path)


def absolute_parent(reference: str, relative_to: Path) -> str:
    """Return the reference of a parent with absolute paths of local folders and files.

    Args:
        reference: a parent as in a search file.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
    """
    if reference.startswith(RUN):
        found = absolute_folder(reference.removeprefix(RUN), relative_to)
        # A search in stages means its latest stage, and later this may be another one.
        staged = is_folder(Path(found)) and (Path(found) / STAGES).is_file()
        return RUN + (str(RunFolder(Path(found)).path) if staged else found)
    if reference.startswith(MERGE):
        return MERGE + absolute_file(reference.removeprefix(MERGE), relative_to)
    for folder in (relative_to, Path.cwd()):
        model, plus, adapter = split_adapter(reference, folder)
        if is_folder(place(model, folder)):
            break
    folders = (absolute_folder(model, relative_to), absolute_folder(adapter, relative_to))
    return f"{folders[0]}{plus}{folders[1] if adapter else ''}"
