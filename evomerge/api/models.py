"""Building, scoring and exporting single models from Python."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.opening import content_of
from evomerge.parsing.values import path_of
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder
from evomerge.trust.consent import Permissions

if TYPE_CHECKING:
    from evomerge.report.confidence import Interval


def merge(
    recipe: Recipe | str | PathLike[str],
    out: str | PathLike[str],
    *,
    memory: str = "8GB",
    shard_size: str = "5GB",
    strict: bool = False,
    truncate: bool = False,
) -> Path:
    """Write the model of a recipe as an ordinary Hugging Face checkpoint, out of core.

    `recipe` is a recipe, or the path of a recipe file or of a mergekit config; `out` the folder to
    create, which is returned. Merging takes at most `memory`, and a weight file `shard_size`.

    Args:
        strict: refuse a mergekit config with something that mergekit ignores.
        truncate: cut embeddings and head to the rows that all parents have, if no tokenizer is
            given (`--unsafe-truncate-embeddings` of the command).

    Raises:
        InputError: the recipe, a parent or an option is wrong, or `out` exists.
        CandidateError: the merged weights are not finite.
    """
    from evomerge.export.recipe import merge_recipe

    target = path_of(out, "out")
    allowed = {"strict": strict, "truncate": truncate}
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


def evaluate(
    model: str | PathLike[str],
    config: str | PathLike[str] | Mapping[str, Any],
    split: str = "test",
    *,
    allow_code: bool = False,
    trust_code: bool = False,
) -> dict[str, Interval]:
    """Score any model (folder, Hub id, `zoo:NAME`) on the documents of a search.

    Args:
        config: path of a search file or of a run's `search.yaml`, or its content.
        split: `search`, `validation` or `test`.
        allow_code: see `search`.
        trust_code: see `search`.

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
        parsed, folder = parse(content_of(config)[0], "config"), Path.cwd()
    else:
        file = path_of(config, "config")
        parsed, folder = load_any(file), file.parent
    checked = prepare(parsed, folder, Permissions(allow_code, trust_code))
    return intervals(measured(checked.ranking), evaluate_model(checked, str(model), split))
