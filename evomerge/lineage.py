"""Parents that are themselves results: `run:DIR` is the best model of another run."""

from __future__ import annotations

from pathlib import Path

from evomerge.checkpoint import Checkpoint
from evomerge.references import open_parent

PREFIX = "run:"


def open_model(reference: str, relative_to: Path, *, allow_pickle: bool = False) -> Checkpoint:
    """Open any parent; the best model of a run is written into that run's folder once.

    The folder is named for the recipe's digest, so a run that finds something better later makes a
    parent of its own, and a search that began with the old one keeps it.

    Raises:
        InputError: nothing is there, or the run has no scored candidate yet.
    """
    if not reference.startswith(PREFIX):
        return open_parent(reference, relative_to, allow_pickle=allow_pickle)
    from evomerge.build import reopen
    from evomerge.merge.assemble import write
    from evomerge.run.folder import RunFolder
    from evomerge.run.history import History

    run = RunFolder(relative_to / Path(reference.removeprefix(PREFIX)).expanduser())
    setup = reopen(run)
    recipe = setup.recipe(History(run.events()).chosen("best", run.path))
    folder = run.path / "models" / recipe.digest[:16]
    if not folder.exists():
        write(recipe, setup.checkpoints, folder)
    return Checkpoint.open(folder, reference)
