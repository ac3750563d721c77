"""Making checked searches of search files and run folders, and opening parents.

These belong together: a parent may be the best model of another run (`run:DIR`), and to open it
means to open that run, whose parents may be models of other runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

from evomerge.config.schema import Frozen, SearchConfig, override, parse
from evomerge.errors import RunFolderError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import MERGE, RUN, is_folder, open_parent, place
from evomerge.recipe import Recipe
from evomerge.run.atomic import TemporaryFolder
from evomerge.run.folder import CONFIG, MODELS, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.searching.ranking import best_of, ranking_of, reached, unimproved
from evomerge.setup.absolute_paths import is_winner_of_stage
from evomerge.setup.check import check_search, freeze, restore
from evomerge.setup.checked import CheckedSearch, Permissions
from evomerge.setup.code_files import code_files, keep_permission
from evomerge.setup.executor import check_executor, check_move, check_workers
from evomerge.setup.merges import MergeOpener
from evomerge.setup.parents_as_themselves import recipe_to_write, write_model
from evomerge.setup.strategy import recipe_of
from evomerge.setup.weight_digests import check_weights
from evomerge.trust.consent import Consent


def prepare(
    config: SearchConfig,
    relative_to: Path,
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    consent: Consent | None = None,
    stage: Path | None = None,
) -> CheckedSearch:
    """Return the checked search of a search file, after all checks; see `check_search`.

    Args:
        config: a parsed search file, or the frozen one of a run.
        relative_to: folder of relative paths.
        allow_pickle: accept parents with pickled weights.
        allow_code: accept tasks that run code which models write.
        consent: decides whether the code of tasks and functions may run; None: if it was allowed
            before.
        stage: of a stage, the run folder of an earlier one: `run:../stage-N` is beside it.

    Raises:
        InputError: the first mistake.
    """
    allowed = Permissions(allow_pickle=allow_pickle, allow_code=allow_code, consent=consent)
    if config.frozen is not None:
        return restore(config, relative_to, open_model, build=False, **allowed)

    def open_in_stage(
        reference: str, relative_to: Path, *, allow_pickle: bool, digest: str | None
    ) -> Checkpoint:
        folder = stage if stage and is_winner_of_stage(reference) else relative_to
        return open_model(reference, folder, allow_pickle=allow_pickle, digest=digest)

    return check_search(config, relative_to, open_in_stage, is_stage=stage is not None, **allowed)


def begin(path: Path, checked: CheckedSearch) -> tuple[RunFolder, CheckedSearch]:
    """Create the run of a new search, and build its parents that are merges.

    Args:
        path: folder of the run; it must be new or empty.
        checked: what `prepare` returned.

    Returns:
        the run, and the checked search with all parents in place.

    Raises:
        InputError: the folder cannot be written, or a merge cannot be built. In the second case the
            run is there, and `resume` tries again.
    """
    run = RunFolder.create(path, freeze(checked))
    frozen = parse(run.config(), str(run.path / CONFIG)).frozen
    keep_permission(frozen or Frozen(), run.path)
    if not checked.merges:
        return run, checked
    return run, replace(reopen(run), loaded=checked.loaded, consent=checked.consent)


@contextmanager
def with_merges_built(checked: CheckedSearch) -> Iterator[CheckedSearch]:
    """Yield a checked search whose parents that are merges are built in a temporary folder.

    Args:
        checked: what `prepare` returned.

    Raises:
        InputError: a merge cannot be built.
    """
    names = [name for name in checked.checkpoints if name.startswith(MERGE)]
    if not names:
        yield checked
        return
    with TemporaryFolder() as folder:
        opener = MergeOpener(open_model, models=folder)
        built = {name: opener(name, folder, allow_pickle=checked.allow_pickle) for name in names}
        checkpoints = with_host_names({**checked.checkpoints, **built}, checked.host)
        yield replace(checked, checkpoints=checkpoints)


def reopen(run: RunFolder, *, allow_pickle: bool = False) -> CheckedSearch:
    """Return the checked search of an existing run, after checking that its parents are unchanged.

    Args:
        run: the run.
        allow_pickle: accept parents with pickled weights, even if the run was not started here.

    Raises:
        InputError: the frozen search file is damaged, or a parent is missing or has changed.
    """
    return _reopen(run, run.config(), allow_pickle=allow_pickle)


def continued(
    run: RunFolder,
    moves: Sequence[str] = (),
    *,
    allow_pickle: bool = False,
    allow_code: bool = False,
    consent: Consent | None = None,
) -> CheckedSearch:
    """Return the checked search of a run whose search goes on now.

    Args:
        run: the run.
        moves: `executor.KEY=VALUE` for what is to differ from the frozen search file in this
            session.
        allow_pickle: accept parents with pickled weights, even if the run was not started here.
        allow_code: accept tasks that run code which models write, even if it was not started here.
        consent: decides whether the code of tasks and functions may run; None: if it was allowed
            before.

    Raises:
        InputError: as for `reopen`, a move is not possible, code is not allowed, or this machine
            cannot run the executor.
    """
    data = run.config()
    for item in moves:
        check_move(item)
        override(data, item)
    checked = _reopen(run, data, allow_pickle=allow_pickle, allow_code=allow_code, consent=consent)
    checked.consent.require(code_files(checked.config))
    frozen = checked.config.frozen or Frozen()
    if allow_pickle >= frozen.allow_pickle and allow_code >= frozen.allow_code:
        keep_permission(frozen, run.path)
    check_executor(checked.config)
    check_workers(checked.config)
    return checked


def check_budget(run: RunFolder, given: Mapping[str, float]) -> None:
    """Check that new bounds of a run's budget leave something to do.

    A new number of candidates may be the one that the run has: the same command can be given again.

    Args:
        run: the run.
        given: the new bounds, `candidates`, `hours`, `patience` or `target`.

    Raises:
        RunFolderError: the run has reached a bound already, a new one or one that stays.
    """
    history = History(run.events())
    done = len(history.candidates)
    if given.get("candidates", done) < done:
        raise RunFolderError(
            f"--candidates is {given['candidates']:g}, but {run.path} has {done} candidates "
            "already, baselines among them; give a larger number."
        )
    hours = run.timings.hours()
    if given.get("hours", hours) < hours:
        raise RunFolderError(
            f"--hours is {given['hours']:g}, but {run.path} has taken {hours:.2f} hours already, "
            "over all sessions; give a larger number."
        )
    if not given:
        return
    config = parse(run.config(), str(run.path / CONFIG))
    budget = {**config.budget.model_dump(), **history.budget, **given}
    ranking = ranking_of(config)
    incumbents = ranking.incumbents(history.candidates)
    most, longest, patience, target = (
        budget[name] for name in ("candidates", "hours", "patience", "target")
    )
    if "candidates" not in given and most is not None and done >= most:
        raise RunFolderError(
            f"{run.path} has {done} candidates, and its search ends after {most} "
            "(budget.candidates); give a larger --candidates."
        )
    if longest is not None and hours >= longest:
        raise RunFolderError(
            f"{run.path} has taken {hours:.2f} hours, and its search ends after {longest:g} "
            "(budget.hours); give a larger --hours."
        )
    if patience is not None and (count := unimproved(incumbents, history.candidates)) >= patience:
        raise RunFolderError(
            f"{run.path} has had no better candidate for {count} candidates, and its search "
            f"ends after {patience:g} (budget.patience); give a larger --patience."
        )
    if target is not None and (first := reached(incumbents, ranking, target)) is not None:
        raise RunFolderError(
            f"Candidate {first.number} of {run.path} has reached {target:g} (budget.target), where "
            "its search ends; give a larger --target."
        )


def _reopen(
    run: RunFolder, data: Mapping[str, Any], **allowed: Unpack[Permissions]
) -> CheckedSearch:
    config = parse(data, str(run.path / CONFIG))
    if config.frozen is None:
        raise RunFolderError(f"{run.path / CONFIG} was not written by a run: it has no `frozen`.")
    checked = restore(config, run.path, open_model, **allowed)
    known = config.frozen.parents
    # Fingerprints of earlier versions cover no weights in pickle files.
    earlier = {
        name: item
        for name, item in checked.checkpoints.items()
        if known.get(name, item.fingerprint) != item.fingerprint
    }
    check_weights(run, earlier)
    return checked


def chosen_candidate(checked: CheckedSearch, history: History, which: str) -> Candidate:
    """Return the candidate that `best` or a number means.

    Args:
        checked: the checked search of the run.
        history: the state of the run.
        which: `best` or a number.

    Raises:
        RunFolderError: there is no such candidate, or none is scored yet.
    """
    return history.chosen(which, best_of(history, checked.ranking))


def open_model(
    reference: str, relative_to: Path, *, allow_pickle: bool = False, digest: str | None = None
) -> Checkpoint:
    """Open any parent. For `run:DIR`, the model is first written into that run's folder `models`.

    Args:
        reference: `run:DIR`, or a reference that `open_parent` takes.
        relative_to: folder of relative paths.
        allow_pickle: accept pickled weights.
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
    with _opening(run.path, reference):
        checked, history = reopen(run, allow_pickle=allow_pickle), History(run.events())
    recipe = _named_recipe(checked, history, digest, reference)
    folder = run.path / MODELS / recipe.digest[:16]
    if not folder.exists():
        check_weights(run, {name: checked.checkpoints[name] for name in recipe.parents})
        write_model(recipe, checked.checkpoints, folder, run=run.path)
    return Checkpoint.open(folder, reference)


_opened_now: ContextVar[tuple[Path, ...]] = ContextVar("_opened_now", default=())
"""The runs whose best models are being opened, each for the one before it."""


@contextmanager
def _opening(folder: Path, reference: str) -> Iterator[None]:
    """Note that a run is being opened while the block runs.

    Raises:
        RunFolderError: it is being opened already, so it is a parent of itself.
    """
    here, above = folder.resolve(), _opened_now.get()
    if here in above:
        circle = " -> ".join(map(str, [*above[above.index(here) :], here]))
        raise RunFolderError(
            f"Parent {reference!r} is a run that is made from itself ({circle}), since a run was "
            "moved or copied to the place of another one; put each back where it was."
        )
    token = _opened_now.set((*above, here))
    try:
        yield
    finally:
        _opened_now.reset(token)


def _named_recipe(
    checked: CheckedSearch, history: History, digest: str | None, reference: str
) -> Recipe:
    """Return the recipe of a run that a `run:` reference names; see `open_model`."""
    candidates = history.candidates
    if digest is None:
        return recipe_to_write(checked, chosen_candidate(checked, history, "best"), candidates)
    found = [
        recipe_of(checked.space, item, candidates)
        for item in candidates
        if item.digest.startswith(digest)
    ]
    found += [
        recipe
        for item in history.baselines
        if (recipe := recipe_to_write(checked, item, candidates)).digest.startswith(digest)
    ]
    if not found:
        raise RunFolderError(
            f"Parent {reference!r} was the recipe {digest}, but that run does not have this recipe "
            "any more; restore its journal, start a new search, or, if a recipe names it, remove "
            "it from `pins` there to take the best model of now."
        )
    return found[0]
