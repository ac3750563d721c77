"""Reading the recipe in a file, evomerge's own or mergekit's, with the parents that it names."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import Recipe


@dataclass(frozen=True)
class RecipeFile:
    """The content of a recipe file.

    Attributes:
        recipe: the recipe; its parents have the names that the file gives them.
        checkpoints: its parents by these names.
        mergekit: the text of the file if it is mergekit's; None for a recipe of evomerge.
    """

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    mergekit: str | None


def read_recipe_file(file: Path, opener: Callable[[str], Checkpoint]) -> RecipeFile:
    """Return the recipe in a file.

    Args:
        file: a recipe of evomerge, or a mergekit config.
        opener: opens a parent that the file names.

    Raises:
        InputError: the file or a parent is wrong.
    """
    from evomerge.mergekit import from_mergekit, mergekit_parents

    text = read_text(file, RecipeError)
    if _is_ours(text, file):
        recipe = Recipe.from_yaml(text)
        return RecipeFile(recipe, with_fit({n: opener(n) for n in recipe.parents}, recipe), None)
    opened = {name: opener(name) for name in mergekit_parents(text)}
    recipe = from_mergekit(text, opened)
    return RecipeFile(recipe, with_fit(opened, recipe), text)


def with_fit(checkpoints: Mapping[str, Checkpoint], recipe: Recipe) -> dict[str, Checkpoint]:
    """Return the parents of a recipe with the host's names of tensors.

    Raises:
        CheckpointError: a parent does not fit the host.
    """
    from evomerge.merging.architecture.naming import with_host_names
    from evomerge.models.correspondence import check_fit

    named = with_host_names(checkpoints, recipe.host)
    check_fit(named[recipe.host], list(named.values()), vocabularies=recipe.tokenizer == "base")
    return named


def _is_ours(text: str, file: Path) -> bool:
    """Return whether a file is a recipe of evomerge; mergekit's configs have no key `host`.

    Raises:
        RecipeError: it is a search file.
    """
    data = yaml_mapping(text, str(file), "a recipe", RecipeError)
    if "parents" in data and "objectives" in data:
        raise RecipeError(
            f"{file} is a search file; run it with `evomerge search {shlex.quote(str(file))} --run "
            "DIR`, or give a recipe, for example the best.yaml of a run."
        )
    return "host" in data
