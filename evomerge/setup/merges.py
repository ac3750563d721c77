"""Parents that are merges themselves (`merge:FILE.yaml`): read, checked, and built once.

Before a run exists, such a merge is only planned: its folder has config, tokenizer and the headers
of the weights, but no weights. In a run it is built out of core into `models/`, and is from then on
a parent like any other. The run keeps its recipe, so the file is not needed any more, and a folder
that is gone is built again.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from evomerge.config.schema import Frozen
from evomerge.errors import CandidateError, CheckpointError, InputError, RecipeError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import MERGE, is_file, is_folder
from evomerge.recipe import Recipe
from evomerge.run.atomic import replace_text
from evomerge.run.temporary import TemporaryFolder
from evomerge.setup.anchored import anchored_file, anchored_parent
from evomerge.setup.recipe_file import read_recipe_file, with_fit, with_grams


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
    def methods(self) -> list[str]:
        """The merge methods, sorted."""
        return sorted({layer.method for layer in self.recipe.every_layer()})

    @property
    def folder(self) -> str:
        """Name of the folder that it is built in: 16 digits of the digest of recipe and names."""
        plain = json.dumps([self.recipe.canonical(), sorted(self.names.items())])
        return hashlib.sha256(plain.encode()).hexdigest()[:16]


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
    ) -> Checkpoint:
        """Return the checkpoint of any reference.

        Args:
            reference: a parent as in a search file.
            relative_to: folder of relative paths.
            allow_pickle: accept pickled weights.
            digest: see `Opener`.

        Raises:
            InputError: the model is missing or damaged, the recipe is wrong or names itself, or a
                parent of the merge has changed since the run was started.
        """
        if not reference.startswith(MERGE):
            return self._opener(reference, relative_to, allow_pickle=allow_pickle, digest=digest)
        name = anchored_parent(reference, relative_to)
        if name in self._opening:
            circle = " -> ".join([*self._opening[self._opening.index(name) :], name])
            raise RecipeError(
                f"Parent {reference!r} is made from itself ({circle}); take it out of one of these "
                "files."
            )
        self._opening.append(name)
        try:
            checkpoint = self._open(name, allow_pickle)
            self.named |= {reference: self.found[name], name: self.found[name]}
            return replace(checkpoint, reference=reference)
        finally:
            self._opening.pop()

    def _open(self, name: str, allow_pickle: bool) -> Checkpoint:
        if name in self._plans:
            return self._plans[name]
        known = self.found.get(name)
        if known is not None and self._models is not None:
            folder = self._models / known.folder
            if is_folder(folder):
                return _checked(folder, name)
        if known is None:
            merge, own = self._read(name, allow_pickle)
        else:
            opened = {
                item: self._open_own(name, where, Path("/"), allow_pickle)
                for item, where in known.names.items()
            }
            merge, own = known, with_fit(opened, known.recipe)
            try:
                _, own = with_grams(known.recipe, own, Path("/"))
            except InputError as error:
                raise CheckpointError(f"Parent {name!r} cannot be built: {error}") from error
        by_reference = {merge.names[item]: checkpoint for item, checkpoint in own.items()}
        self.found[name] = replace(merge, checkpoints=by_reference)
        if self._models is None or not self._build:
            self._plans[name] = _planned(merge, own, name)
            return self._plans[name]
        return _built(merge, own, self._models / merge.folder, name)

    def _read(self, name: str, allow_pickle: bool) -> tuple[MergedParent, Mapping[str, Checkpoint]]:
        """Read the file of a merge; return the merge, and its parents by their names in the file.

        Relative paths start from the folder of the file; if nothing is there, from the working
        folder.
        """
        file = Path(name.removeprefix(MERGE))
        if not is_file(file):
            raise RecipeError(
                f"Parent {name!r} is no recipe, since there is no file {str(file)!r}; give the "
                "path of a recipe of evomerge or of a mergekit file."
            )
        content = read_recipe_file(
            file, lambda item: self._open_own(name, item, file.parent, allow_pickle)
        )
        names = {item: anchored_parent(item, file.parent) for item in content.checkpoints}
        notes = tuple(f"Parent {name!r}: {note}" for note in content.notes)
        recipe = content.recipe
        grams = {
            item: replace(grams, file=anchored_file(grams.file, file.parent))
            for item, grams in recipe.grams.items()
        }
        recipe = replace(recipe, grams=grams)
        return MergedParent(recipe, names, notes=notes), content.checkpoints

    def _open_own(
        self, name: str, reference: str, relative_to: Path, allow_pickle: bool
    ) -> Checkpoint:
        """Open a parent of a merge, and check that it is the one that the run was started with."""
        where = anchored_parent(reference, relative_to)
        digest = self._frozen.models.get(where)
        if reference.startswith(MERGE):
            return self(where, relative_to, allow_pickle=allow_pickle)
        try:
            found = self._opener(where, relative_to, allow_pickle=allow_pickle, digest=digest)
        except InputError as error:
            raise CheckpointError(f"Parent {name!r} cannot be built: {error}") from error
        fingerprint = self._frozen.parents.get(where)
        if fingerprint is not None and fingerprint != found.fingerprint:
            raise CheckpointError(
                f"Parent {name!r} cannot be built again, since {where!r} has changed since the run "
                "was started; put its old weights back, or start a new run."
            )
        return replace(found, reference=reference)


def merged_parents(merges: Mapping[str, MergedParent]) -> Iterator[tuple[str, Checkpoint]]:
    """Yield the parents of merges that are no merges themselves, with their references."""
    for merge in merges.values():
        for reference, checkpoint in merge.checkpoints.items():
            if not reference.startswith(MERGE):
                yield reference, checkpoint


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
