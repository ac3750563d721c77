"""Parents that are merges themselves (`merge:FILE.yaml`): read, checked, and built once.

Before a run exists, such a merge is only planned: its folder has config, tokenizer and the headers
of the weights, but no weights. In a run it is built out of core into `models/`, and is from then on
a parent like any other. The run keeps its recipe, so the file is not needed any more, and a folder
that is gone is built again.
"""

from __future__ import annotations

import atexit
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from evomerge.config.schema import Frozen
from evomerge.errors import CandidateError, CheckpointError, InputError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import MERGE, is_file, is_folder
from evomerge.recipe import Pin, Recipe
from evomerge.run.atomic import TemporaryFolder, replace_text
from evomerge.setup.absolute_paths import absolute_parent
from evomerge.setup.pins import MergedParent, check_pin, pin_of, pinned
from evomerge.setup.recipe_file import read_recipe_file, with_fit


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


class MergeOpener:
    """An opener that knows `merge:FILE.yaml`, and asks another opener for all other parents.

    Args:
        opener: opens the other parents, and those of the merges.
        frozen: what the run has kept of its merges; None before there is a run.
        models: folder that merges are built in; None if there is none.
        build: whether a merge that is not in that folder is built. If not, it is only planned, so
            that shapes and tokenizers can be checked, but there are no weights.

    Attributes:
        found: the merges that were opened, those inside of others too, by absolute reference.
        named: the same, and by the references that they were opened with.
    """

    def __init__(
        self,
        opener: Opener,
        frozen: Frozen | None = None,
        models: Path | None = None,
        *,
        build: bool = True,
    ) -> None:
        self._opener, self._frozen, self._models = opener, frozen or Frozen(), models
        self._build = build
        self.named: dict[str, MergedParent] = {}
        self.found = {
            name: MergedParent(Recipe.from_dict(item.recipe), item.parents)
            for name, item in self._frozen.merges.items()
        }
        self._opening: list[str] = []
        self._plans: dict[str, Checkpoint] = {}  # merges of merges may name one many times

    def __call__(
        self,
        reference: str,
        relative_to: Path,
        *,
        allow_pickle: bool = False,
        digest: str | None = None,
        pin: Pin | None = None,
    ) -> Checkpoint:
        """Return the checkpoint of any reference.

        Args:
            reference: a parent as in a search file.
            relative_to: folder of relative paths.
            allow_pickle: accept pickled weights.
            digest: see `Opener`.
            pin: the pin of this parent in a recipe, or None.

        Raises:
            InputError: the model is missing or damaged, is not what the pin says, the recipe is
                wrong or names itself, or a parent of the merge has changed since the run was
                started.
        """
        if not reference.startswith(MERGE):
            wanted = digest or (pin and pin.recipe) or None
            found = self._opener(reference, relative_to, allow_pickle=allow_pickle, digest=wanted)
            check_pin(reference, pin and pin_of(reference, found), pin)
            return found
        name = absolute_parent(reference, relative_to)
        if name in self._opening:
            circle = " -> ".join([*self._opening[self._opening.index(name) :], name])
            raise RecipeError(
                f"Parent {reference!r} is made from itself ({circle}); take it out of one of these "
                "files."
            )
        self._opening.append(name)
        try:
            checkpoint = self._open(name, allow_pickle, pin)
            self.named |= {reference: self.found[name], name: self.found[name]}
            return replace(checkpoint, reference=reference)
        finally:
            self._opening.pop()

    def _open(self, name: str, allow_pickle: bool, pin: Pin | None) -> Checkpoint:
        known = self.found.get(name)
        if known is not None:
            check_pin(name, known.pin, pin, known.recipe.parents)
        if name in self._plans:
            return self._plans[name]
        if known is not None and self._models is not None:
            folder = self._models / known.folder
            if is_folder(folder):
                return _checked(folder, name)
        if known is None:
            merge, own = self._read(name, allow_pickle, pin.runs if pin else {})
            check_pin(name, merge.pin, pin, merge.recipe.parents)
        else:
            pins = known.recipe.pins
            opened = {
                item: self._open_own(name, where, Path("/"), allow_pickle, pins.get(item))
                for item, where in known.names.items()
            }
            merge, own = known, with_fit(opened, known.recipe)
        by_reference = {merge.names[item]: checkpoint for item, checkpoint in own.items()}
        self.found[name] = replace(merge, checkpoints=by_reference)
        if self._models is None or not self._build:
            self._plans[name] = _planned(merge, own, name)
            return self._plans[name]
        return _built(merge, own, self._models / merge.folder, name)

    def _read(
        self, name: str, allow_pickle: bool, runs: Mapping[str, str]
    ) -> tuple[MergedParent, Mapping[str, Checkpoint]]:
        """Read the file of a merge; return the merge, and its parents by their names in the file.

        Relative paths start from the folder of the file; if nothing is there, from the working
        folder. The models of `runs` (see `Pin`) are taken where the file has no pin of its own.
        """
        file = Path(name.removeprefix(MERGE))
        if not is_file(file):
            raise RecipeError(
                f"Parent {name!r} is no recipe, since there is no file {str(file)!r}; give the "
                "path of a recipe of evomerge or of a mergekit file."
            )
        content = read_recipe_file(
            file,
            lambda item, pin: self._open_own(name, item, file.parent, allow_pickle, pin, runs),
        )
        names = {item: absolute_parent(item, file.parent) for item in content.checkpoints}
        notes = tuple(f"Parent {name!r}: {note}" for note in content.notes)
        inner = {item: self.found[where] for item, where in names.items() if where in self.found}
        recipe = pinned(content.recipe, content.checkpoints, inner)
        return MergedParent(recipe, names, notes=notes), content.checkpoints

    def _open_own(
        self,
        name: str,
        reference: str,
        relative_to: Path,
        allow_pickle: bool,
        pin: Pin | None,
        runs: Mapping[str, str] | None = None,
    ) -> Checkpoint:
        """Open a parent of a merge, and check that it is what a run or a recipe was made from."""
        where, is_known = absolute_parent(reference, relative_to), name in self.found
        if pin is None:
            runs, frozen = runs or {}, self._frozen
            digits = runs.get(where) or frozen.models.get(where, "")
            pin = Pin(frozen.parents.get(where, ""), digits, runs)
        if reference.startswith(MERGE):
            return self(where, relative_to, allow_pickle=allow_pickle, pin=pin)
        digest = pin.recipe or None
        try:
            found = self._opener(where, relative_to, allow_pickle=allow_pickle, digest=digest)
            if not is_known:
                check_pin(reference, pin_of(where, found), pin)
        except InputError as error:
            raise CheckpointError(f"Parent {name!r} cannot be built: {error}") from error
        if is_known and pin.sha256 and found.fingerprint != pin.sha256:
            raise CheckpointError(
                f"Parent {name!r} cannot be built again, since {where!r} has changed since the run "
                "was started; put its old weights back, or start a new run."
            )
        return replace(found, reference=reference)


@contextmanager
def temporarily_built(reference: str, relative_to: Path, opener: Opener) -> Iterator[Checkpoint]:
    """Yield the checkpoint of any reference; a merge is built into a folder that is removed after.

    Args:
        reference: a parent as in a search file.
        relative_to: folder of relative paths.
        opener: opens what is no merge.

    Raises:
        InputError: see `MergeOpener`.
    """
    with TemporaryFolder() as folder:
        yield MergeOpener(opener, models=folder)(reference, relative_to)


def _planned(merge: MergedParent, own: Mapping[str, Checkpoint], name: str) -> Checkpoint:
    """Return the checkpoint of a merge without weights, in a folder that this process removes."""
    from evomerge.merging.backend import write

    folder = TemporaryFolder()
    atexit.register(folder.close)
    write(merge.recipe, own, folder.path / merge.folder, weights=False)
    return Checkpoint.open(folder.path / merge.folder, name)


def _built(
    merge: MergedParent, own: Mapping[str, Checkpoint], folder: Path, name: str
) -> Checkpoint:
    """Build a merge and return its checkpoint; several workers may do so at the same time."""
    from evomerge.merging.backend import write

    try:
        write(merge.recipe, own, folder)
    except CandidateError as error:
        raise CheckpointError(
            f"Parent {name!r} cannot be built: {error} Change its recipe."
        ) from error
    except CheckpointError:
        if not is_folder(folder):
            raise
    return _checked(folder, name, new=True)


def _checked(folder: Path, name: str, *, new: bool = False) -> Checkpoint:
    """Return the checkpoint of a merge that was built, if it is what was built the first time."""
    checkpoint = Checkpoint.open(folder, name)
    record = folder.with_name(f"{folder.name}.sha256")
    if not record.is_file():
        replace_text(record, f"{checkpoint.fingerprint}\n")
    elif record.read_text(encoding="utf-8").strip() != checkpoint.fingerprint:
        if new:
            shutil.rmtree(folder)
            raise CheckpointError(
                f"Parent {name!r} was built again and is not the model that the run was started "
                "with; use the versions of packages that search.yaml names, or start a new run."
            )
        raise CheckpointError(
            f"Parent {name!r} has changed since it was built into {folder}; delete this folder, "
            "so that it is built again."
        )
    return checkpoint
