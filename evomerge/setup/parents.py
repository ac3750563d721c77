"""Opening the parents that a search file names, and checking that they fit each other.

References get absolute paths, so that a run can be resumed from anywhere. A recipe that is written
has pins, the fingerprints of its parents, since what has a name may change.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config.objectives import MeasuredConfig
from evomerge.config.schema import SearchConfig
from evomerge.config.space import OutsideConfig, PathConfig
from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.heads import with_heads_of_host
from evomerge.models.references import is_file, is_folder, open_parent, place, split_adapter
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import replaced
from evomerge.recipe import Pin, Recipe
from evomerge.scores import SPLITS
from evomerge.setup.space import host_of

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.plan import TokenizerPlan


def open_parents(
    config: SearchConfig, relative_to: Path
) -> tuple[SearchConfig, dict[str, Checkpoint], str]:
    """Open the parents and the base without reading weights, and check that they fit.

    Returns:
        the search file with absolute paths of local folders, the checkpoints by reference, and the
        reference of the host (the parent that gives config and tokenizer).

    Raises:
        InputError: a parent is missing or damaged, does not fit the host, or has changed since the
            run was started.
    """
    if config.frozen is None:
        config = absolute_config(config, relative_to)
    fingerprints = config.frozen.parents if config.frozen else {}
    names = dict.fromkeys([*config.parents, *([config.base] if config.base else [])])
    checkpoints, host = {n: open_parent(n, relative_to) for n in names}, host_of(config)
    checkpoints = fitting(checkpoints, host, vocabularies=config.tokenizer == "base")
    for name, fingerprint in fingerprints.items():
        if name in checkpoints and checkpoints[name].fingerprint != fingerprint:
            raise CheckpointError(
                f"Parent {name!r} has changed since the run was started; put the old weights back."
            )
    return config, checkpoints, host


def fitting(
    checkpoints: Mapping[str, Checkpoint],
    host: str,
    *,
    vocabularies: bool,
    tokenizer: str = "tokenizer",
) -> dict[str, Checkpoint]:
    """Return the parents with the host's names of tensors, after checking that they fit.

    Where not all can have the classification head of the host, it is not merged.

    Args:
        vocabularies: whether they must have as many rows of embeddings.
        tokenizer: the key in the user's file that lets vocabularies differ.

    Raises:
        CheckpointError: a parent does not fit the host.
    """
    named = with_heads_of_host(with_host_names(checkpoints, host), host)
    check_fit(named[host], list(named.values()), vocabularies=vocabularies, tokenizer=tokenizer)
    return named


def plan_tokenizers(
    config: SearchConfig, recipes: Iterable[Recipe], checkpoints: Mapping[str, Checkpoint]
) -> list[TokenizerPlan]:
    """Return the plans of all tokenizers that candidates of a search can have; at least one.

    Args:
        recipes: recipes of the search that together have all combinations of parents.

    Raises:
        InputError: a tokenizer or adapter is damaged, or does not fit.
    """
    from evomerge.merging.tensors.adapters import adapter_patches
    from evomerge.merging.tokenizers.plan import plan_tokenizer

    adapter_patches(checkpoints)
    different = list({recipe.parents: recipe for recipe in recipes}.values())
    if config.tokenizer != "base":
        different = different[:1]  # all candidates have one vocabulary
    return [plan_tokenizer(recipe, checkpoints) for recipe in different]


def absolute_config(config: SearchConfig, relative_to: Path) -> SearchConfig:
    """Return the search file with absolute paths of local folders; see `open_parents`."""

    def absolute(reference: str | None) -> str | None:
        return None if reference is None else absolute_parent(reference, relative_to)

    space, tokenizer = config.space, config.tokenizer
    config = config.with_values("space", host=absolute(space.host))
    if isinstance(space, PathConfig) and space.outside is not None:
        outside = {name: absolute(value) for name, value in space.outside}
        config = config.with_values("space", outside=OutsideConfig(**outside))
    include = [absolute_folder(item, relative_to) for item in config.evaluation.include]
    config = _with_absolute_files(config.with_values("evaluation", include=include), relative_to)
    update = {
        "parents": list(map(absolute, config.parents)),
        "base": absolute(config.base),
        "tokenizer": tokenizer if tokenizer in ("base", "union") else absolute(tokenizer),
    }
    return config.model_copy(update=update)


def _with_absolute_files(config: SearchConfig, relative_to: Path) -> SearchConfig:
    names = config.rows
    for split in SPLITS:
        section = getattr(config.evaluation, split)
        tasks = dict(section.tasks)
        tasks |= {n: absolute_file(tasks[n], relative_to) for n in tasks.keys() & names}
        changed = section.model_copy(update={"tasks": tasks})
        config = config.with_values("evaluation", **{split: changed})

    def absolute(item: MeasuredConfig) -> MeasuredConfig:
        if item.file is None:
            return item
        return item.model_copy(update={"file": absolute_file(item.file, relative_to)})

    keys = ("objectives", "constraints")
    return config.model_copy(update={key: [*map(absolute, getattr(config, key))] for key in keys})


def renamed_recipe(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """Return a recipe in which parents have other names: name in the recipe -> the new one."""

    def new(name: Any) -> Any:
        return names.get(name, name)

    if tokens := recipe.options.get("tokens"):  # mergekit's mapping as JSON, which names parents
        plain = json_value(tokens, "The option `tokens`", RecipeError)
        text = json.dumps(replaced(plain, new, new), separators=(",", ":"))
        recipe = replace(recipe, options={**recipe.options, "tokens": text})
    return Recipe.from_dict(replaced(recipe.to_dict(), new, new))


def absolute_folder(
    path: str, relative_to: Path, is_there: Callable[[Path], bool] = is_folder
) -> str:
    """Return the absolute path of a folder; the text itself, such as a Hub id, if there is none."""
    found = (place(path, folder) for folder in (relative_to, Path.cwd()))
    return next((str(item.resolve()) for item in found if is_there(item)), path)


def absolute_file(path: str, relative_to: Path) -> str:
    """Return the absolute path of a file; the text itself if there is none."""
    return absolute_folder(path, relative_to, is_file)


def absolute_parent(reference: str, relative_to: Path) -> str:
    """Return the reference of a parent with absolute paths of local folders and files."""
    for folder in (relative_to, Path.cwd()):
        model, plus, adapter = split_adapter(reference, folder)
        if is_folder(place(model, folder)):
            break
    folders = (absolute_folder(model, relative_to), absolute_folder(adapter, relative_to))
    return f"{folders[0]}{plus}{folders[1] if adapter else ''}"


def pinned(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> Recipe:
    """Return a recipe with pins of what its parents are now."""
    pins = {name: Pin(checkpoints[name].fingerprint) for name in recipe.parents}
    return replace(recipe, pins=pins)


def open_pinned(reference: str, relative_to: Path, pin: Pin | None) -> Checkpoint:
    """Open a parent of a recipe.

    Raises:
        CheckpointError: the parent is missing or damaged, or is not what the pin says.
    """
    found = open_parent(reference, relative_to)
    if pin is not None and pin.sha256 not in ("", found.fingerprint):
        raise CheckpointError(
            f"Parent {reference!r} is not the model that the recipe was made from: its fingerprint "
            f"was {pin.sha256[:16]} and is {found.fingerprint[:16]}; put it back as it was, use a "
            "model that was exported, or remove the parent from `pins` of the recipe to merge what "
            "is there now."
        )
    return found
