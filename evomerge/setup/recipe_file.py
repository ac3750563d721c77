"""Reading the recipe in a file, evomerge's own or mergekit's, with the parents that it names."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.merging.tokenizers.rows import TRUNCATE
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import is_folder, open_parent, place, split_adapter
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import Recipe
from evomerge.setup.parents import fitting, open_pinned


@dataclass(frozen=True)
class RecipeFile:
    """The content of a recipe file.

    Attributes:
        recipe: the recipe; its parents have the names that the file gives them.
        checkpoints: its parents by these names.
        mergekit: the text of the file if it is mergekit's; None for a recipe of evomerge.
        notes: warnings: what mergekit ignores in its file, and what the file leaves open.
    """

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    mergekit: str | None
    notes: tuple[str, ...] = ()


def read_recipe_file(file: Path, *, truncate: bool = False) -> RecipeFile:
    """Return the recipe in a file, with its parents.

    Args:
        file: a recipe of evomerge, or a mergekit config.
        truncate: whether embeddings and head are cut to the rows that all parents have, if the
            file has no tokenizer.

    Raises:
        InputError: the file or a parent is wrong.
    """
    from evomerge.mergekit import from_mergekit, mergekit_parents

    text, quoted = read_text(file, RecipeError), shlex.quote(str(file))
    data = yaml_mapping(text, str(file), "a recipe", RecipeError)
    if "parents" in data and "objectives" in data:
        raise RecipeError(
            f"{file} is a search file; run it with `evomerge search {quoted} --run DIR`, or give a "
            "recipe, for example the best.yaml of a run."
        )
    if "experts" in data:
        raise RecipeError(
            f"{file} is a file of mergekit-moe; `mergekit-moe {quoted} DIR` makes its mixture."
        )

    def truncated(recipe: Recipe) -> Recipe:
        if not truncate or recipe.tokenizer != "base":
            return recipe
        return replace(recipe, options={**recipe.options, TRUNCATE: "true"})

    if "host" in data:  # mergekit's configs have no such key
        recipe = truncated(Recipe.from_yaml(text))
        # A parent that was renamed by hand still has the pin of its old name.
        for name in recipe.pins.keys() - {*recipe.parents}:
            raise RecipeError(
                f"`pins` names {name!r}, which is no parent of the recipe; remove it, or name one "
                f"of {', '.join(recipe.parents)}."
            )
        opened = {
            name: open_pinned(name, start_of(name, file), recipe.pins.get(name))
            for name in recipe.parents
        }
        return RecipeFile(recipe, _with_fit(opened, recipe, "tokenizer"), None)
    warnings: list[str] = []
    opened = {name: open_parent(name, start_of(name, file)) for name in mergekit_parents(text)}
    recipe = truncated(from_mergekit(text, opened, warnings))
    fit = _with_fit(opened, recipe, "tokenizer_source")
    return RecipeFile(recipe, fit, text, tuple(dict.fromkeys(warnings)))


def start_of(reference: str, file: Path) -> Path:
    """Return the folder that a relative path of a parent in a file starts from."""
    there = place(split_adapter(reference, Path.cwd())[0], Path.cwd())
    return Path.cwd() if is_folder(there) else file.parent


def _with_fit(
    checkpoints: Mapping[str, Checkpoint], recipe: Recipe, tokenizer: str
) -> dict[str, Checkpoint]:
    """Return the parents of a recipe with the host's names of tensors; see `fitting`."""
    vocabularies = recipe.tokenizer == "base" and TRUNCATE not in recipe.options
    return fitting(checkpoints, recipe.host, vocabularies=vocabularies, tokenizer=tokenizer)
