"""Reading the recipe in a file, evomerge's own or mergekit's, with the parents that it names."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.merging.tokenizers.rows import TRUNCATE
from evomerge.models.checkpoint import Checkpoint
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import Pin, Recipe


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


def read_recipe_file(
    file: Path,
    opener: Callable[[str, Pin | None], Checkpoint],
    *,
    truncate: bool = False,
) -> RecipeFile:
    """Return the recipe in a file.

    Args:
        file: a recipe of evomerge, or a mergekit config.
        opener: opens a parent that the file names, given its pin if the file has one.
        truncate: whether embeddings and head are cut to the rows that all parents have, if the
            file has no tokenizer.

    Raises:
        InputError: the file or a parent is wrong.
    """
    from evomerge.mergekit import ImportWarnings, documents, from_mergekit, mergekit_parents

    text = read_text(file, RecipeError)
    if (count := len(documents(text))) > 1:
        raise RecipeError(
            f"{file} has {count} documents, which only `evomerge merge {shlex.quote(str(file))} "
            "--out DIR` builds; put each merge into a file of its own, and name it by "
            "`merge:FILE.yaml`."
        )
    if _is_ours(text, file):
        recipe = _truncated(Recipe.from_yaml(text), truncate)
        _check_pins(recipe)
        opened = {name: opener(name, recipe.pins.get(name)) for name in recipe.parents}
        return RecipeFile(recipe, with_fit(opened, recipe), None)
    doubts = ImportWarnings()
    opened = {name: opener(name, None) for name in mergekit_parents(text)}
    recipe = _truncated(from_mergekit(text, opened, doubts), truncate)
    fitting = with_fit(opened, recipe, "tokenizer_source")
    return RecipeFile(recipe, fitting, text, doubts.notes)


def with_fit(
    checkpoints: Mapping[str, Checkpoint], recipe: Recipe, tokenizer: str = "tokenizer"
) -> dict[str, Checkpoint]:
    """Return the parents of a recipe with the host's names of tensors.

    Args:
        checkpoints: the parents by their names in the recipe.
        recipe: the recipe.
        tokenizer: the key in the recipe's file that lets vocabularies differ.

    Raises:
        CheckpointError: a parent does not fit the host.
    """
    from evomerge.merging.architecture.naming import with_host_names
    from evomerge.models.correspondence import check_fit

    named = with_host_names(checkpoints, recipe.host)
    vocabularies = recipe.tokenizer == "base" and TRUNCATE not in recipe.options
    check_fit(
        named[recipe.host], list(named.values()), vocabularies=vocabularies, tokenizer=tokenizer
    )
    return named


def _check_pins(recipe: Recipe) -> None:
    """Check that pins are those of parents: another one may have been written with a new name.

    Raises:
        RecipeError: a pin has the name of no parent.
    """
    for name in recipe.pins:
        if name not in recipe.parents:
            raise RecipeError(
                f"`pins` names {name!r}, which is no parent of the recipe; remove it, or name one "
                f"of {', '.join(recipe.parents)}."
            )


def _truncated(recipe: Recipe, wanted: bool) -> Recipe:
    if not wanted or recipe.tokenizer != "base":
        return recipe
    return replace(recipe, options={**recipe.options, TRUNCATE: "true"})


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
