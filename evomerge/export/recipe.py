"""`evomerge merge`: a recipe file, ours or mergekit's, becomes a checkpoint on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from evomerge.errors import RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.references import is_folder, place
from evomerge.parsing.texts import read_text
from evomerge.parsing.yaml import yaml_mapping
from evomerge.recipe import Recipe
from evomerge.setup.runs import open_model


def merge_recipe(
    file: Path, out: Path, memory: str, shard_size: str, *, allow_pickle: bool = False
) -> tuple[str, ...]:
    """Build the model of a recipe file, out of core.

    Paths in the file start from the working folder or, where nothing is there, from the file's.

    Returns:
        What was decided where the parents' tokenizers disagree, one sentence each.

    Raises:
        InputError: file, parents or options are wrong, or `out` exists.
        CandidateError: the merged weights are not finite.
    """
    from evomerge.merge.architecture.naming import with_host_names
    from evomerge.merge.backend import write
    from evomerge.mergekit import from_mergekit, mergekit_parents

    text = read_text(file, RecipeError)
    if _is_ours(text, file):
        recipe = Recipe.from_yaml(text)
        checkpoints = _open(recipe.parents, file, allow_pickle=allow_pickle)
    else:
        checkpoints = _open(mergekit_parents(text), file, allow_pickle=allow_pickle)
        recipe = from_mergekit(text, checkpoints)
    checkpoints = with_host_names(checkpoints, recipe.host)
    host = checkpoints[recipe.host]
    check_fit(host, list(checkpoints.values()), vocabularies=recipe.tokenizer == "base")
    extra = {"evomerge_recipe.yaml": recipe.to_yaml()}
    return write(recipe, checkpoints, out, memory=memory, shard_size=shard_size, texts=extra)


def _is_ours(text: str, file: Path) -> bool:
    data = yaml_mapping(text, str(file), "a recipe", RecipeError)
    return "host" in data


def _open(
    references: tuple[str, ...], file: Path, *, allow_pickle: bool
) -> Mapping[str, Checkpoint]:
    def folder(reference: str) -> Path:
        model = place(reference.partition("+")[0], Path.cwd())
        return Path.cwd() if is_folder(model) else file.parent

    return {name: open_model(name, folder(name), allow_pickle=allow_pickle) for name in references}
