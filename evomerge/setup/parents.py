"""Opening the parents that a search file names, and checking that they fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.config.schema import SearchConfig
from evomerge.errors import CheckpointError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.recipe import Recipe
from evomerge.setup.absolute_paths import absolute_folder, absolute_parent, is_winner_of_stage
from evomerge.setup.merges import Opener
from evomerge.setup.space import host_of

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.plan import TokenizerPlan


def open_parents(
    config: SearchConfig,
    relative_to: Path,
    opener: Opener,
    *,
    allow_pickle: bool = False,
    is_stage: bool = False,
) -> tuple[SearchConfig, dict[str, Checkpoint], str]:
    """Open the parents and the base without reading weights, and check that they fit.

    Args:
        config: a parsed search file, or a run's frozen one.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
        opener: opens a reference.
        allow_pickle: accept parents with pickled weights.
        is_stage: whether `run:../stage-N` is the winner of an earlier stage, and stays as it is.

    Returns:
        the search file with absolute paths of local folders, the checkpoints by reference, and the
        reference of the host (the parent that gives config and tokenizer).

    Raises:
        InputError: a parent is missing or damaged, does not fit the host, or has changed since the
            run was started.
    """
    if config.frozen is None:
        config = absolute_config(config, relative_to, is_stage=is_stage)
    names = dict.fromkeys([*config.parents, *([config.base] if config.base else [])])
    digests = config.frozen.models if config.frozen else {}
    checkpoints = {
        name: opener(name, relative_to, allow_pickle=allow_pickle, digest=digests.get(name))
        for name in names
    }
    host = host_of(config)
    checkpoints = with_host_names(checkpoints, host)
    check_fit(
        checkpoints[host], list(checkpoints.values()), vocabularies=config.tokenizer == "base"
    )
    if config.frozen is not None:
        _check_unchanged(checkpoints, config.frozen.parents)
    return config, checkpoints, host


def plan_tokenizers(
    config: SearchConfig, recipes: Iterable[Recipe], checkpoints: Mapping[str, Checkpoint]
) -> list[TokenizerPlan]:
    """Return the plans of all tokenizers that candidates of a search can have; at least one.

    Args:
        config: the search file.
        recipes: recipes of the search that together have all combinations of parents.
        checkpoints: the parents by reference.

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


def absolute_config(
    config: SearchConfig, relative_to: Path, *, is_stage: bool = False
) -> SearchConfig:
    """Make references to local folders absolute, so that a run can be resumed from anywhere."""

    def parent(reference: str) -> str:
        if is_stage and is_winner_of_stage(reference):
            return reference
        return absolute_parent(reference, relative_to)

    special = ("base", "union")
    tokenizer = config.tokenizer if config.tokenizer in special else parent(config.tokenizer)
    update: dict[str, Any] = {
        "parents": [parent(item) for item in config.parents],
        "base": None if config.base is None else parent(config.base),
        "tokenizer": tokenizer,
        "evaluation": config.evaluation.model_copy(
            update={
                "include": [
                    absolute_folder(item, relative_to) for item in config.evaluation.include
                ]
            }
        ),
    }
    space = config.space
    outside = space.outside and space.outside.model_copy(
        update={name: None if value is None else parent(value) for name, value in space.outside}
    )
    host = None if space.host is None else parent(space.host)
    update["space"] = space.model_copy(update={"host": host, "outside": outside})
    return config.model_copy(update=update)


def _check_unchanged(checkpoints: Mapping[str, Checkpoint], frozen: Mapping[str, str]) -> None:
    """Compare the parents with the fingerprints in the frozen search file."""
    for name, fingerprint in frozen.items():
        if name in checkpoints and checkpoints[name].fingerprint != fingerprint:
            raise CheckpointError(
                f"Parent {name!r} has changed since the run was started; put the old weights back, "
                "or start a new run."
            )
