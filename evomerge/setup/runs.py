"""Problems by what a person names: a search file, a run folder, a model.

A parent may be the result of another run (`run:DIR`), whose own parents may be results again; so
what opens a parent needs what opens a run.
"""

from __future__ import annotations

from pathlib import Path

from evomerge.config.schema import SearchConfig, parse
from evomerge.errors import RunFolderError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import RUN, is_folder, open_parent, place
from evomerge.run.folder import CONFIG, RunFolder
from evomerge.run.history import Candidate, History
from evomerge.search.ranking import WeightedSum, best_of
from evomerge.setup.check import check_search, restore
from evomerge.setup.problem import Problem
from evomerge.setup.strategy import recipe_of


def prepare(config: SearchConfig, relative_to: Path, *, allow_pickle: bool = False) -> Problem:
    """Return the problem of a search file; see `check_search`.

    Raises:
        InputError: the first mistake.
    """
    if config.frozen is not None:
        return restore(config, relative_to, open_model)
    return check_search(config, relative_to, open_model, allow_pickle=allow_pickle)


def reopen(run: RunFolder) -> Problem:
    """Return the problem of an existing run, after checking that its parents are unchanged.

    Raises:
        InputError: the frozen search file is damaged, or a parent is gone or has changed.
    """
    config = parse(run.config(), str(run.path / CONFIG))
    if config.frozen is None:
        raise RunFolderError(f"{run.path / CONFIG} was not written by a run: it has no `frozen`.")
    return restore(config, run.path, open_model)


def chosen_candidate(problem: Problem, history: History, which: str) -> Candidate:
    """Return the candidate of a run that a person names.

    Args:
        which: `best` or a number.

    Raises:
        RunFolderError: there is no such candidate, or none is scored yet.
    """
    return history.chosen(which, best_of(history, WeightedSum(problem.objectives)))


def open_model(
    reference: str, relative_to: Path, *, allow_pickle: bool = False, digest: str | None = None
) -> Checkpoint:
    """Open any parent; the best model of a run is written into that run's folder once.

    Args:
        reference: see `open_parent`; or `run:DIR`.
        relative_to: folder that relative paths start from.
        allow_pickle: accept weights in pickles.
        digest: first digits of the digest of the recipe that `run:` stood for when it was frozen:
            what that run finds later changes nothing here. None takes its best.

    Raises:
        InputError: nothing is there, or the run has no scored candidate yet.
    """
    if not reference.startswith(RUN):
        return open_parent(reference, relative_to, allow_pickle=allow_pickle)
    from evomerge.merge.backend import write

    try:
        run = RunFolder(place(reference.removeprefix(RUN), relative_to))
    except RunFolderError as error:
        raise RunFolderError(f"Parent {reference!r}: {error}") from error
    known = None if digest is None else run.path / "models" / digest
    if known is not None and is_folder(known):
        return Checkpoint.open(known, reference)
    problem, history = reopen(run), History(run.events())
    recipe = recipe_of(problem.space, _member(problem, history, digest, reference))
    folder = run.path / "models" / recipe.digest[:16]
    if not folder.exists():
        write(recipe, problem.checkpoints, folder)
    return Checkpoint.open(folder, reference)


def _member(problem: Problem, history: History, digest: str | None, reference: str) -> Candidate:
    if digest is None:
        return chosen_candidate(problem, history, "best")
    found = [item for item in history.candidates if item.digest.startswith(digest)]
    if not found:
        raise RunFolderError(
            f"Parent {reference!r} stood for the recipe {digest}, which that run does not have any "
            "more; put its journal back, or start a new search."
        )
    return found[0]
