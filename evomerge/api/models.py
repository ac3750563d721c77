"""Building, scoring and exporting single models from Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.objectives import with_named_functions
from evomerge.api.search import permissions
from evomerge.parsing.values import path_of
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder

if TYPE_CHECKING:
    from evomerge.export.adapter import WrittenAdapter
    from evomerge.report.confidence import Interval


def merge(
    recipe: Recipe | str | PathLike[str],
    out: str | PathLike[str],
    *,
    memory: str = "8GB",
    shard_size: str = "5GB",
    allow_pickle: bool = False,
    strict: bool = False,
    truncate: bool = False,
) -> Path:
    """Write the model of a recipe as an ordinary Hugging Face checkpoint, out of core.

    Args:
        recipe: a recipe, or the path of a recipe file or of a mergekit config.
        out: folder to create; it must not exist.
        memory: memory that merging may use, such as `8GB`.
        shard_size: largest size of a weight file.
        allow_pickle: accept parents with pickled weights.
        strict: refuse a mergekit config with something that mergekit ignores.
        truncate: cut embeddings and head to the rows that all parents have, if no tokenizer is
            given (`--unsafe-truncate-embeddings` of the command).

    Returns:
        the folder.

    Raises:
        InputError: the recipe, a parent or an option is wrong, or `out` exists.
        CandidateError: the merged weights are not finite.
    """
    from evomerge.export.recipe import merge_recipe

    target = path_of(out, "out")
    allowed = {"allow_pickle": allow_pickle, "strict": strict, "truncate": truncate}
    with TemporaryFolder() as folder:
        file = folder / "recipe.yaml"
        if isinstance(recipe, Recipe):
            file.write_text(recipe.to_yaml(), encoding="utf-8")
        else:
            file = path_of(recipe, "recipe")
        notes = merge_recipe(file, target, memory, shard_size, **allowed)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return target


def merge_adapter(
    recipe: str | PathLike[str],
    out: str | PathLike[str],
    *,
    rank: int | None = None,
    allow_pickle: bool = False,
    strict: bool = False,
) -> WrittenAdapter:
    """Write what a merge changes in its base as one LoRA adapter, which PEFT loads.

    Args:
        recipe: path of a recipe file or of a mergekit config with a base, or whose parents are
            adapters of one model.
        out: folder to create; it must not exist.
        rank: largest rank of the change of a matrix. None: the sum of the ranks of the parents'
            adapters, with which a merge that is linear in them loses nothing.
        allow_pickle: accept parents with pickled weights.
        strict: refuse a mergekit config with something that mergekit ignores.

    Returns:
        the rank, and the share of the change that was lost, in all and for each layer.

    Raises:
        InputError: the recipe or a parent is wrong, there is no base, the merge changes what no
            adapter can change, or `out` exists.
    """
    from evomerge.export.recipe import merge_adapter as write

    file, target = path_of(recipe, "recipe"), path_of(out, "out")
    written = write(file, target, rank, allow_pickle=allow_pickle, strict=strict)
    for note in written.notes:
        warnings.warn(note, stacklevel=2)
    return written


def extract(
    base: str | PathLike[str],
    model: str | PathLike[str],
    out: str | PathLike[str],
    *,
    rank: int,
    matrices_only: bool = False,
    without_embeddings: bool = False,
    allow_pickle: bool = False,
) -> WrittenAdapter:
    """Write what a fine-tune has changed in its base as a LoRA adapter.

    Args:
        base: the model that `model` was made from: folder, Hub id or `zoo:NAME`.
        model: the fine-tune; also `BASE+ADAPTER`, `run:DIR` or `merge:FILE.yaml`.
        out: folder to create; it must not exist.
        rank: largest rank of the change of a matrix.
        matrices_only: leave out the changes of norms and biases, which vLLM does not load.
        without_embeddings: leave out the changes of embeddings and of the head of a language model,
            which vLLM loads of some models only.
        allow_pickle: accept models with pickled weights.

    Returns:
        the rank, and the share of the change that was lost, in all and for each layer.

    Raises:
        InputError: a model is missing, the two have other shapes, the model differs in what no
            adapter can change, or `out` exists.
    """
    from evomerge.export.adapter import extract as write

    return write(
        str(base),
        str(model),
        rank,
        path_of(out, "out"),
        matrices_only=matrices_only,
        without_embeddings=without_embeddings,
        allow_pickle=allow_pickle,
    )


def evaluate(
    model: str | PathLike[str],
    config: str | PathLike[str] | Mapping[str, Any],
    split: str = "test",
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    trust_code: bool = False,
) -> dict[str, Interval]:
    """Score any model on the documents of a search.

    Args:
        model: folder, Hub id, `zoo:NAME`, `run:DIR` or `merge:FILE.yaml`.
        config: path of a search file or of a run's `search.yaml`, or its content.
        split: `search`, `validation` or `test`.
        allow_pickle: accept parents with pickled weights.
        allow_code: accept tasks that run code which models write. What was allowed for a run that
            was started on this machine needs no argument.
        trust_code: let the code run that the search file names, and remember its files.

    Returns:
        `task/metric` -> the score with its 95 % interval (`value`, `low`, `high`).

    Raises:
        InputError: there is no such model or split, or the search file is wrong.
    """
    from evomerge.config.schema import parse
    from evomerge.report.confidence import intervals
    from evomerge.searching.ranking import measured
    from evomerge.setup.runs import load_any, prepare
    from evomerge.setup.search import evaluate as evaluate_model

    if isinstance(config, Mapping):
        parsed, folder = parse(with_named_functions(config), "config"), Path.cwd()
    else:
        file = path_of(config, "config")
        parsed, folder = load_any(file), file.parent
    checked = prepare(parsed, folder, permissions(allow_pickle, allow_code, trust_code))
    return intervals(measured(checked.ranking), evaluate_model(checked, str(model), split))
