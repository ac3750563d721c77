"""Making checked searches of search files and run folders, and opening parents.

These belong together: a parent may be the best model of another run (`run:DIR`), and to open it
means to open that run, whose parents may be models of other runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from evomerge.config.messages import parsed
from evomerge.config.schema import BudgetConfig, Frozen, SearchConfig, load, override, parse
from evomerge.errors import CheckpointError, RunFolderError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.heads import with_heads_of_host
from evomerge.models.references import MERGE, RUN, is_folder, open_parent, place
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder
from evomerge.run.folder import CONFIG, MANIFEST, MODELS, RunFolder
from evomerge.run.history import History
from evomerge.searching.ranking import best_of, leading, ranking_of, reached, unimproved
from evomerge.setup.check import check_search
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.freeze import freeze, is_permitted, keep_permission
from evomerge.setup.memory import check_fit
from evomerge.setup.merges import MergeOpener
from evomerge.setup.parents import is_winner_of_stage, open_parents
from evomerge.setup.parents_as_themselves import recipe_to_write, write_model
from evomerge.setup.space import make_space
from evomerge.setup.strategy import recipe_of
from evomerge.setup.study import refuse_study
from evomerge.setup.tasks import code_files
from evomerge.setup.weight_digests import check_weights
from evomerge.setup.worker import as_stored
from evomerge.setup.workers import check_move, check_workers
from evomerge.trust.consent import NOTHING, Permissions


def prepare(
    config: SearchConfig,
    relative_to: Path,
    allowed: Permissions = NOTHING,
    *,
    stage: Path | None = None,
    gpu_memory: int | None = None,
) -> CheckedSearch:
    """Return the checked search of a search file, after all checks; see `check_search`.

    A search that is told its scores is refused: `evomerge.Study` makes it.

    Args:
        stage: of a stage, the run folder of an earlier one: `run:../stage-N` is beside it.
        gpu_memory: see `CheckedSearch`.
    """
    refuse_study(config)
    if config.frozen is not None:
        return replace(restore(config, relative_to, allowed), gpu_memory=gpu_memory)

    def open_in_stage(reference: str, relative_to: Path, **how: Any) -> Checkpoint:
        folder = stage if stage and is_winner_of_stage(reference) else relative_to
        return open_model(reference, folder, **how)

    return check_search(
        config,
        relative_to,
        open_in_stage,
        allowed,
        is_stage=stage is not None,
        gpu_memory=gpu_memory,
    )


def begin(path: Path, checked: CheckedSearch) -> tuple[RunFolder, CheckedSearch]:
    """Create the run of a new search in a new folder, and build its parents that are merges.

    Returns:
        the run, and the checked search with all parents in place.

    Raises:
        InputError: the folder cannot be written, or a merge cannot be built. In the second case the
            run is there, and `resume` tries again.
    """
    run = RunFolder.create(path, freeze(checked))
    keep_permission(run.search_file().frozen or Frozen(), run.path)
    if not checked.merges:
        return run, checked
    return run, replace(reopen(run, checked.allowed), loaded=checked.loaded)


def load_any(path: Path) -> SearchConfig:
    """Read a search file, which may be that of a run.

    Raises:
        InputError: the file cannot be read, has a mistake, or has `stages`.
    """
    if path.name == CONFIG and (path.parent / MANIFEST).is_file():
        return RunFolder(path.parent).search_file()
    return load(path)


@contextmanager
def with_merges_built(checked: CheckedSearch) -> Iterator[CheckedSearch]:
    """Yield a checked search whose parents that are merges are built in a temporary folder.

    Raises:
        InputError: a merge cannot be built.
    """
    merges = [name for name in checked.checkpoints if name.startswith(MERGE)]
    if not merges:
        yield checked
        return
    with TemporaryFolder() as folder:
        opener = MergeOpener(open_model, models=folder)
        allow_pickle = checked.allowed.allow_pickle
        built = {name: opener(name, folder, allow_pickle=allow_pickle) for name in merges}
        stored = {name: as_stored(item) for name, item in checked.checkpoints.items()} | built
        checkpoints = with_heads_of_host(with_host_names(stored, checked.host), checked.host)
        yield replace(checked, checkpoints=checkpoints)


def restore(
    config: SearchConfig, relative_to: Path, allowed: Permissions = NOTHING
) -> CheckedSearch:
    """Return the checked search of a run, from its search file. Tasks are not loaded yet.

    Parents that are merges are built in the run folder if they are not there.
    That the file itself allows pickles or models' code counts only if the user has allowed them on
    this machine.

    Args:
        relative_to: the run folder.
        allowed: what the user allows in any case.

    Raises:
        InputError: a parent is missing or has changed.
    """
    frozen = config.frozen or Frozen()
    if (frozen.allow_pickle or frozen.allow_code) and is_permitted(frozen):
        allowed = allowed.and_also(frozen.allow_pickle, frozen.allow_code)
    merges = MergeOpener(open_model, frozen, relative_to / MODELS)
    config, checkpoints, host = open_parents(
        config, relative_to, merges, allow_pickle=allowed.allow_pickle
    )
    return CheckedSearch(
        config,
        checkpoints,
        host,
        make_space(config, checkpoints),
        config.run_objectives,
        config.run_documents,
        config.run_constraints,
        frozen.fewer_documents,
        start=tuple(map(tuple, frozen.start)),
        merges=merges.found,
        settings=tuple(frozen.settings),
        unlike_merges=tuple(frozen.unlike_merges),
        allowed=allowed,
    )


def reopen(run: RunFolder, allowed: Permissions = NOTHING) -> CheckedSearch:
    """Return the checked search of an existing run, after checking that its parents are unchanged.

    Raises:
        InputError: the run's search file is damaged, or a parent is missing or has changed.
    """
    return restore(run.search_file(), run.path, allowed)


def continued(
    run: RunFolder, moves: Sequence[str] = (), allowed: Permissions = NOTHING
) -> CheckedSearch:
    """Return the checked search of a run whose search goes on now.

    Args:
        moves: `executor.KEY=VALUE` for what is to differ from the run's search file in this
            session.

    Raises:
        InputError: as for `reopen`, a move is not possible, code is not allowed, or this machine
            cannot run the executor.
    """
    data = run.config()
    for item in moves:
        check_move(item)
        override(data, item)
    config = parse(data, str(run.path / CONFIG))
    frozen = config.frozen or Frozen()
    refuse_study(config)
    checked = restore(config, run.path, allowed)
    allowed.require(code_files(checked.config))
    if allowed == allowed.and_also(frozen.allow_pickle, frozen.allow_code):
        keep_permission(frozen, run.path)
    check_workers(checked.config)
    check_fit(checked)
    return checked


def check_budget(run: RunFolder, given: Mapping[str, float]) -> None:
    """Check that new bounds of a run's budget leave something to do.

    A new number of candidates may be the one that the run has: the same command can be given again.
    A larger number than the one that has ended the search leaves the rest of a generation, whatever
    else is reached: the search asks for it to its end, as if it had had the larger number before.

    Args:
        given: the new bounds, `candidates`, `hours`, `patience` or `target`.

    Raises:
        ConfigError: a new bound is none, such as 0 candidates.
        RunFolderError: the run has reached a bound already, a new one or one that stays.
    """
    if not given:
        return
    parsed(BudgetConfig, given, "budget")
    history, config = History(run.events()), run.search_file()
    candidates, ranking = history.candidates, ranking_of(config)
    so_far = {**config.budget.model_dump(), **history.budget}
    budget = {**so_far, **given}
    is_cut = given.get("candidates", 0) > len(candidates) == so_far["candidates"]
    if is_cut and config.executor.order != "arrival":
        return
    incumbents = leading(ranking, candidates)
    unimproving, hours = unimproved(incumbents, candidates), run.timings.hours()
    done = {
        "candidates": (len(candidates), f"{len(candidates)} candidates, baselines among them"),
        "hours": (hours, f"taken {hours:.2f} hours, over all sessions"),
        "patience": (unimproving, f"had no better candidate for {unimproving} candidates"),
    }
    for name, (reached_now, text) in done.items():
        again = name == "candidates" and name in given and reached_now == budget[name]
        if budget[name] is not None and reached_now >= budget[name] and not again:
            raise RunFolderError(
                f"{run.path} has {text}, and its search ends after {budget[name]:g} "
                f"(budget.{name}); give a larger --{name}."
            )
    target = budget["target"]
    if target is not None and (first := reached(incumbents, ranking, target)) is not None:
        raise RunFolderError(
            f"Candidate {first.number} of {run.path} has reached {target:g} (budget.target), where "
            "its search ends; give a larger --target."
        )


def open_model(
    reference: str,
    relative_to: Path,
    *,
    allow_pickle: bool = False,
    digest: str | None = None,
) -> Checkpoint:
    """Open any parent. For `run:DIR`, the model is first written into that run's folder `models`.

    Args:
        reference: `run:DIR`, or a reference that `open_parent` takes.
        digest: first digits of the digest of the recipe that `run:DIR` named when the search file
            was frozen. What that run finds later does not change it. None: the best recipe now.

    Raises:
        InputError: the model is missing or damaged, or the run has no scored candidate yet.
    """
    if not reference.startswith(RUN):
        return open_parent(reference, relative_to, allow_pickle=allow_pickle)
    try:
        run = RunFolder(place(reference.removeprefix(RUN), relative_to))
    except RunFolderError as error:
        raise RunFolderError(f"Parent {reference!r}: {error}") from error
    written = None if digest is None else run.path / MODELS / digest
    if written is not None and is_folder(written):
        return Checkpoint.open(written, reference)
    checked = reopen(run, Permissions(allow_pickle))
    recipe = _named_recipe(checked, History(run.events()), digest, reference)
    folder = run.path / MODELS / recipe.digest[:16]
    if not folder.exists():
        check_weights(run, {name: checked.checkpoints[name] for name in recipe.parents})
        try:
            write_model(recipe, checked.checkpoints, folder)
        except CheckpointError:
            if not is_folder(folder):  # else another search has written it meanwhile
                raise
    return Checkpoint.open(folder, reference)


def _named_recipe(
    checked: CheckedSearch, history: History, digest: str | None, reference: str
) -> Recipe:
    """Return the recipe of a run that a `run:` reference names; see `open_model`."""
    if digest is None:
        best = history.chosen("best", best_of(history, checked.ranking))
        return recipe_to_write(checked, best)
    for item in history.candidates:
        if item.digest.startswith(digest):
            return recipe_of(checked.space, item)
    for item in history.baselines:
        recipe = recipe_to_write(checked, item)
        if recipe.digest.startswith(digest):
            return recipe
    raise RunFolderError(
        f"Parent {reference!r} was the recipe {digest}, but that run does not have this recipe any "
        "more; restore its journal, start a new search, or, if a recipe names it, remove it from "
        "`pins` there to take the best model of now."
    )
