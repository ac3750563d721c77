"""Opening the parents that a search file or a recipe names, and checking that they fit.

References get absolute paths, so that a run can be resumed from anywhere. A recipe that is written
has pins, the fingerprints of its parents, since what has a name may change.
"""

import json
import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from evomerge.config.objectives import MeasuredConfig
from evomerge.config.record import Record
from evomerge.config.schema import SearchConfig
from evomerge.errors import CheckpointError, RecipeError
from evomerge.mergekit import from_mergekit, mergekit_parents
from evomerge.merging.architecture.naming import fitting
from evomerge.merging.tokenizers.plan import TokenizerPlan, plan_tokenizer
from evomerge.merging.tokenizers.rows import TRUNCATE
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import is_file, is_there, open_parent, place, split_adapter
from evomerge.parsing.texts import json_value, read_text, yaml_mapping
from evomerge.parsing.values import replaced
from evomerge.recipe import Pin, Recipe
from evomerge.scores import SPLITS

_Measured = TypeVar("_Measured", bound=MeasuredConfig)


def open_parents(config: SearchConfig, relative_to: Path) -> tuple[dict[str, Checkpoint], str]:
    """Open the parents and the base without reading weights, and check that they fit.

    Returns the checkpoints by reference, and the reference of the host.
    InputError: a parent is missing or damaged, or does not fit the host.
    """
    names = dict.fromkeys([*config.parents, *([config.base] if config.base else [])])
    checkpoints, host = {n: open_parent(n, relative_to) for n in names}, config.host
    return fitting(checkpoints, host, vocabularies=config.tokenizer == "base"), host


def check_fingerprints(record: Record, checkpoints: Mapping[str, Checkpoint]) -> None:
    """Raise a CheckpointError if a parent has changed since a run was started."""
    for name, fingerprint in record.parents.items():
        if name in checkpoints and checkpoints[name].fingerprint != fingerprint:
            raise CheckpointError(
                f"Parent {name!r} has changed since the run was started; put the old weights back."
            )


def plan_tokenizers(
    config: SearchConfig, recipes: Iterable[Recipe], checkpoints: Mapping[str, Checkpoint]
) -> list[TokenizerPlan]:
    """Return the plans of all tokenizers that recipes of a search have; at least one.
    InputError: a tokenizer or adapter is damaged, or does not fit.
    """
    from evomerge.merging.tensors.adapters import adapter_changes

    adapter_changes(checkpoints)
    different = list({recipe.parents: recipe for recipe in recipes}.values())
    if config.tokenizer != "base":
        different = different[:1]  # all candidates have one vocabulary
    return [plan_tokenizer(recipe, checkpoints) for recipe in different]


def absolute_config(config: SearchConfig, relative_to: Path) -> SearchConfig:
    """Return the search file with absolute paths of local folders.

    So a run can be resumed from anywhere.
    """

    def parent(reference: str | None) -> str | None:
        return None if reference is None else absolute_parent(reference, relative_to)

    def file(path: str) -> str:
        return _absolute(path, relative_to, is_file)

    def with_files(measured: Sequence[_Measured]) -> list[_Measured]:
        return [
            each.model_copy(update={"file": each.file and file(each.file)}) for each in measured
        ]

    tokenizer = config.tokenizer
    evaluation: dict[str, Any] = {
        "include": [_absolute(item, relative_to) for item in config.evaluation.include],
        "also": with_files(config.evaluation.also),
    }
    for split in SPLITS:
        section = getattr(config.evaluation, split)
        tasks = {n: file(item) if n in config.rows else item for n, item in section.tasks.items()}
        evaluation[split] = section.model_copy(update={"tasks": tasks})
    update = {
        "parents": list(map(parent, config.parents)),
        "base": parent(config.base),
        "tokenizer": tokenizer if tokenizer in ("base", "union") else parent(tokenizer),
        "space": config.space.renamed(parent),
        "evaluation": config.evaluation.model_copy(update=evaluation),
    }
    for key in ("objectives", "constraints"):
        update[key] = with_files(getattr(config, key))
    return config.model_copy(update=update)


def renamed_recipe(recipe: Recipe, names: Mapping[str, str]) -> Recipe:
    """Return a recipe in which parents have other names: name in the recipe -> the new one."""

    def new(name: Any) -> Any:
        return names.get(name, name)

    if tokens := recipe.options.get("tokens"):  # mergekit's mapping as JSON, which names parents
        plain = json_value(tokens, "The option `tokens`", RecipeError)
        text = json.dumps(replaced(plain, new, new), separators=(",", ":"))
        recipe = replace(recipe, options={**recipe.options, "tokens": text})
    return Recipe.from_dict(replaced(recipe.to_dict(), new, new))


def _absolute(path: str, relative_to: Path, exists: Callable[[Path], bool] = is_there) -> str:
    """Return the absolute path of a folder; the text itself, such as a Hub id, if there is none."""
    places = (place(path, folder) for folder in (relative_to, Path.cwd()))
    return next((str(item.resolve()) for item in places if exists(item)), path)


def absolute_parent(reference: str, relative_to: Path) -> str:
    """Return the reference of a parent with absolute paths of local folders."""
    for folder in (relative_to, Path.cwd()):
        model, plus, adapter = split_adapter(reference, folder)
        if is_there(place(model, folder)):
            break
    end = _absolute(adapter, relative_to) if adapter else ""
    return f"{_absolute(model, relative_to)}{plus}{end}"


def pinned(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> Recipe:
    """Return a recipe with pins of what its parents are now."""
    pins = {name: Pin(checkpoints[name].fingerprint) for name in recipe.parents}
    return replace(recipe, pins=pins)


@dataclass(frozen=True)
class RecipeFile:
    """A recipe and its parents, by the names that its file gives them."""

    recipe: Recipe
    checkpoints: Mapping[str, Checkpoint]
    mergekit: str | None  # the text of the file if it is mergekit's
    notes: tuple[str, ...] = ()  # what mergekit ignores in it, and what it leaves open


def read_recipe_file(file: Path, *, truncate: bool = False) -> RecipeFile:
    """Return the recipe in a file, evomerge's own or mergekit's, with its parents.

    Args:
        truncate: whether embeddings and head are cut to the rows that all parents have, if the
            file has no tokenizer.
    InputError: the file or a parent is wrong, or a parent is not what its pin says.
    """

    text, quoted = read_text(file, RecipeError), shlex.quote(str(file))
    data, doubts = yaml_mapping(text, str(file), "a recipe", RecipeError), list[str]()
    if "parents" in data and "objectives" in data:
        raise RecipeError(
            f"{file} is a search file; run it with `evomerge search {quoted} --run DIR`, or give a "
            "recipe, for example the best.yaml of a run."
        )
    if "experts" in data:
        raise RecipeError(
            f"{file} is a file of mergekit-moe; `mergekit-moe {quoted} DIR` makes its mixture."
        )

    def opened(names: Iterable[str]) -> dict[str, Checkpoint]:
        return {name: open_parent(name, start_of(name, file)) for name in names}

    if is_own := "host" in data:  # mergekit's configs have no such key
        recipe = Recipe.from_yaml(text)
        # A parent that was renamed by hand still has the pin of its old name.
        for name in recipe.pins.keys() - {*recipe.parents}:
            raise RecipeError(
                f"`pins` names {name!r}, which is no parent of the recipe; remove it, or name one "
                f"of {', '.join(recipe.parents)}."
            )
        _check_pins(recipe, checkpoints := opened(recipe.parents))
    else:
        recipe = from_mergekit(text, checkpoints := opened(mergekit_parents(text)), doubts)
    if truncate and recipe.tokenizer == "base":
        recipe = replace(recipe, options={**recipe.options, TRUNCATE: "true"})
    checkpoints = fitting(
        checkpoints,
        recipe.host,
        vocabularies=recipe.tokenizer == "base" and TRUNCATE not in recipe.options,
        tokenizer="tokenizer" if is_own else "tokenizer_source",
    )
    return RecipeFile(recipe, checkpoints, None if is_own else text, tuple(dict.fromkeys(doubts)))


def start_of(reference: str, file: Path) -> Path:
    """Return the folder that a relative path of a parent in a file starts from."""
    there = place(split_adapter(reference, Path.cwd())[0], Path.cwd())
    return Path.cwd() if is_there(there) else file.parent


def _check_pins(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> None:
    for name, pin in recipe.pins.items():
        now = checkpoints[name].fingerprint
        if pin.sha256 not in ("", now):
            raise CheckpointError(
                f"Parent {name!r} is not the model that the recipe was made from: its fingerprint "
                f"was {pin.sha256[:16]} and is {now[:16]}; put it back as it was, use a model that "
                "was exported, or remove the parent from `pins` of the recipe to merge what is "
                "there now."
            )
