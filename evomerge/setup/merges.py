"""Parents that are merges themselves (`merge:FILE.yaml`): read, checked, and built once.

Before a run exists, such a merge is only planned: its folder has config, tokenizer and the headers
of the weights, but no weights. In a run it is built out of core into `models/`, and is from then on
a parent like any other. The run keeps its recipe, so the file is not needed any more, and a folder
that is gone is built again.

A recipe names its parents, and what has this name may change: a run goes on, the file of a merge is
edited, a model is trained further. So each recipe that is written has a pin for each parent. A run
needs none for its own parents, since it keeps their fingerprints.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from evomerge.config.schema import Frozen
from evomerge.errors import CandidateError, CheckpointError, InputError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import MERGE, RUN, is_file, is_folder
from evomerge.recipe import Pin, Recipe
from evomerge.run.atomic import TemporaryFolder, replace_text
from evomerge.setup.parents import Opener, absolute_parent
from evomerge.setup.recipe_file import read_recipe_file, with_fit


@dataclass(frozen=True)
class MergedParent:
    """A parent that is a merge itself.

    Attributes:
        recipe: its recipe; its own parents have the names that the file gives them.
        names: name in the recipe -> the reference with absolute paths.
        checkpoints: its own parents by absolute reference; empty if they were not opened, since the
            merge is built already.
        notes: warnings about its file.
    """

    recipe: Recipe
    names: Mapping[str, str]
    checkpoints: Mapping[str, Checkpoint] = field(default_factory=dict, compare=False, repr=False)
    notes: tuple[str, ...] = field(default=(), compare=False, repr=False)

    @property
    def folder(self) -> str:
        """Name of the folder that it is built in: 16 digits of the digest of recipe and names."""
        return _digest(self.recipe.canonical(), sorted(self.names.items()))[:16]

    @property
    def pin(self) -> Pin:
        """Its pin, made of those of its parents."""
        content = [(name, item.sha256) for name, item in self.recipe.pins.items()]
        runs: dict[str, str] = {}
        for name, item in self.recipe.pins.items():
            runs |= item.runs
            if name.startswith(RUN):
                runs[self.names[name]] = item.recipe
        return Pin(_digest(self.recipe.canonical(), content), self.recipe.digest[:16], runs)


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def pinned(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], merges: Mapping[str, MergedParent]
) -> Recipe:
    """Return a recipe with pins of what its parents are now.

    Args:
        checkpoints: its parents by their names in the recipe.
        merges: those that are merges themselves, by the same names.
    """
    pins = {
        name: merges[name].pin if name in merges else _pin_of(name, checkpoints[name])
        for name in recipe.parents
    }
    return replace(recipe, pins=pins)


def _pin_of(reference: str, checkpoint: Checkpoint) -> Pin:
    """Return the pin of a parent that is no merge; a run's model lies in a folder of its digits."""
    return Pin(checkpoint.fingerprint, checkpoint.folder.name if reference.startswith(RUN) else "")


def _check_pin(reference: str, found: Pin, wanted: Pin | None, parents: Sequence[str] = ()) -> None:
    """Compare what a parent is with its pin in a recipe; `parents` are those of a merge."""
    if wanted is None:
        return
    if wanted.recipe not in ("", found.recipe):
        changed = f"its recipe was {wanted.recipe} and is {found.recipe or 'none'}"
    elif wanted.sha256 in ("", found.sha256):
        return
    elif parents:
        changed = f"one of its own parents ({', '.join(parents)}) has changed"
    else:
        changed = f"its fingerprint was {wanted.sha256[:16]} and is {found.sha256[:16]}"
    raise CheckpointError(
        f"Parent {reference!r} is not the model that the recipe was made from: {changed}; put it "
        "back as it was, use a model that was exported, or remove the parent from `pins` of the "
        "recipe to merge what is there now."
    )


class MergeOpener:
    """An opener that knows `merge:FILE.yaml`, and asks another opener for all other parents.

    Args:
        opener: opens the other parents, and those of the merges.
        frozen: what the run has kept of its merges; None before there is a run.
        models: folder that merges are built in. None: they are only planned, so that shapes and
            tokenizers can be checked, but there are no weights.

    Attributes:
        found: the merges that were opened, those inside of others too, by absolute reference.
        named: the same, and by the references that they were opened with.
    """

    def __init__(
        self, opener: Opener, frozen: Frozen | None = None, models: Path | None = None
    ) -> None:
        self._opener, self._frozen, self._models = opener, frozen or Frozen(), models
        self.named: dict[str, MergedParent] = {}
        self.found = {
            name: MergedParent(Recipe.from_dict(item.recipe), item.parents)
            for name, item in self._frozen.merges.items()
        }
        self._opening: list[str] = []

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
            digest: see `open_model`.
            pin: the pin of this parent in a recipe, or None.

        Raises:
            InputError: the model is missing, damaged or not what the pin says; a recipe is wrong or
                names itself; or a parent of a merge has changed since the run was started.
        """
        if not reference.startswith(MERGE):
            wanted = digest or (pin and pin.recipe) or None
            found = self._opener(reference, relative_to, allow_pickle=allow_pickle, digest=wanted)
            if pin is not None:
                _check_pin(reference, _pin_of(reference, found), pin)
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
            _check_pin(name, known.pin, pin, known.recipe.parents)
            if self._models is not None and is_folder(self._models / known.folder):
                return _checked(self._models / known.folder, name)
            opened = {
                item: self._open_own(
                    name, where, Path("/"), allow_pickle, known.recipe.pins.get(item)
                )
                for item, where in known.names.items()
            }
            merge, own = known, with_fit(opened, known.recipe)
        else:
            merge, own = self._read(name, allow_pickle, pin.runs if pin else {})
            _check_pin(name, merge.pin, pin, merge.recipe.parents)
        by_reference = {merge.names[item]: checkpoint for item, checkpoint in own.items()}
        self.found[name] = replace(merge, checkpoints=by_reference)
        if self._models is None:
            return _planned(merge, own, name)
        return _built(merge, own, self._models / merge.folder, name)

    def _read(
        self, name: str, allow_pickle: bool, runs: Mapping[str, str]
    ) -> tuple[MergedParent, dict[str, Checkpoint]]:
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
        return MergedParent(recipe, names, notes=notes), dict(content.checkpoints)

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
        where, runs = absolute_parent(reference, relative_to), runs or {}
        if pin is None:
            digits = runs.get(where) or self._frozen.models.get(where, "")
            pin = Pin(self._frozen.parents.get(where, ""), digits, runs)
        try:
            found = self(where, relative_to, allow_pickle=allow_pickle, pin=pin)
        except InputError as error:
            if reference.startswith(MERGE):
                raise
            raise CheckpointError(f"Parent {name!r} cannot be built: {error}") from error
        return replace(found, reference=reference)


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
                "with; use the versions of packages that manifest.json names, or start a new run."
            )
        raise CheckpointError(
            f"Parent {name!r} has changed since it was built into {folder}; delete this folder, "
            "so that it is built again."
        )
    return checkpoint
