"""Building the model of a recipe file, evomerge's or mergekit's (`evomerge merge`)."""

from __future__ import annotations

import platform
import shlex
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.references import is_folder, place
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import Recipe
from evomerge.run.writable import check_new_folder
from evomerge.setup.runs import open_model


def merge_recipe(
    file: Path, out: Path, memory: str, shard_size: str, *, allow_pickle: bool = False
) -> tuple[str, ...]:
    """Write the model of a recipe file as a checkpoint, without holding it in memory as a whole.

    Relative paths in the file are looked up in the working folder first, then in the folder of the
    file.

    Args:
        file: a recipe of evomerge, or a mergekit config.
        out: folder to create; it must not exist.
        memory: memory that merging may use, such as `8GB`.
        shard_size: largest size of a weight file, such as `5GB`.
        allow_pickle: accept parents whose weights are pickles.

    Returns:
        one sentence for each decision that was made because the parents' tokenizers differ.

    Raises:
        InputError: the file, a parent or an option is wrong, or `out` exists.
        CandidateError: the merged weights are not finite.
    """
    from evomerge.export.card import Merge, merge_card
    from evomerge.export.parents import describe_parents
    from evomerge.mergekit import from_mergekit, mergekit_parents
    from evomerge.merging.architecture.naming import with_host_names
    from evomerge.merging.backend import write

    check_new_folder(out)
    text = read_text(file, RecipeError)
    is_ours = _is_ours(text, file)
    if is_ours:
        recipe = Recipe.from_yaml(text)
        checkpoints = _open(recipe.parents, file, allow_pickle=allow_pickle)
    else:
        checkpoints = _open(mergekit_parents(text), file, allow_pickle=allow_pickle)
        recipe = from_mergekit(text, checkpoints)
    checkpoints = with_host_names(checkpoints, recipe.host)
    host = checkpoints[recipe.host]
    check_fit(host, list(checkpoints.values()), vocabularies=recipe.tokenizer == "base")
    extra = {"evomerge_recipe.yaml": recipe.to_yaml()}
    if not is_ours:
        extra["mergekit_config.yml"] = text
    parents = describe_parents(recipe.parents, checkpoints)
    merge = Merge(recipe, parents, mergekit=not is_ours)
    extra |= merge_card(merge, _versions())
    return write(recipe, checkpoints, out, memory=memory, shard_size=shard_size, texts=extra)


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


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the packages that the bits of a merge may depend on."""
    packages = ("evomerge", "torch", "transformers", "numba", "numpy")
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}


def _open(
    references: tuple[str, ...], file: Path, *, allow_pickle: bool
) -> Mapping[str, Checkpoint]:
    """Open the parents that a recipe file names, by reference."""

    def folder(reference: str) -> Path:
        model = place(reference.partition("+")[0], Path.cwd())
        return Path.cwd() if is_folder(model) else file.parent

    return {name: open_model(name, folder(name), allow_pickle=allow_pickle) for name in references}
