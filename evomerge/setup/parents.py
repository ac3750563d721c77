"""Opening the parents that a search file names, and checking that they fit each other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from evomerge.config.schema import SearchConfig
from evomerge.errors import CheckpointError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.models.references import RUN, is_folder, place
from evomerge.recipe import Recipe
from evomerge.run.folder import STAGES, RunFolder
from evomerge.setup.space import host_of

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.plan import TokenizerPlan


class Opener(Protocol):
    """Opens the model of a reference; `evomerge.setup.runs.open_model` is one."""

    def __call__(
        self, reference: str, relative_to: Path, *, allow_pickle: bool, digest: str | None
    ) -> Checkpoint:
        """Return the checkpoint.

        Args:
            reference: a parent as in a search file.
            relative_to: folder of relative paths.
            allow_pickle: accept pickled weights.
            digest: of a `run:` reference in a frozen search file, the first digits of the digest
                of the recipe that it named when it was frozen; else None.
        """
        ...


def open_parents(
    config: SearchConfig, relative_to: Path, opener: Opener, *, allow_pickle: bool = False
) -> tuple[SearchConfig, dict[str, Checkpoint], str]:
    """Open the parents and the base without reading weights, and check that they fit.

    Args:
        config: a parsed search file, or a run's frozen one.
        relative_to: folder of relative paths; if nothing is there, the working folder is tried.
        opener: opens a reference.
        allow_pickle: accept parents with pickled weights.

    Returns:
        the search file with absolute paths of local folders, the checkpoints by reference, and the
        reference of the host (the parent that gives config and tokenizer).

    Raises:
        InputError: a parent is missing or damaged, does not fit the host, or has changed since the
            run was started.
    """
    config = _anchored(config, relative_to)
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


def _anchored(config: SearchConfig, relative_to: Path) -> SearchConfig:
    """Make references to local folders absolute, so that a run can be resumed from anywhere."""

    def anchored(path: str) -> str:
        for folder in (relative_to, Path.cwd()):
            found = place(path, folder)
            if is_folder(found):
                return str(found.resolve())
        return path

    def parent(reference: str) -> str:
        if reference.startswith(RUN):
            found = anchored(reference.removeprefix(RUN))
            # A search in stages means its latest stage, and later this may be another one.
            staged = is_folder(Path(found)) and (Path(found) / STAGES).is_file()
            return RUN + (str(RunFolder(Path(found)).path) if staged else found)
        model, plus, adapter = reference.partition("+")
        return anchored(model) + plus + (anchored(adapter) if adapter else "")

    special = ("base", "union")
    tokenizer = config.tokenizer if config.tokenizer in special else parent(config.tokenizer)
    update: dict[str, Any] = {
        "parents": [parent(item) for item in config.parents],
        "base": None if config.base is None else parent(config.base),
        "tokenizer": tokenizer,
        "evaluation": config.evaluation.model_copy(
            update={"include": [anchored(item) for item in config.evaluation.include]}
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
