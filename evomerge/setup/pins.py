"""What the parents of a recipe are, and whether they are still what they were.

A recipe names its parents, and what has this name may change: a run goes on, the file of a merge is
edited, a model is trained further. So each recipe that is written has a pin for each parent. A run
needs none for its own parents, since its search file has their fingerprints.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import MERGE, RUN
from evomerge.recipe import Pin, Recipe


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
        return _digest(self.recipe.canonical(), sorted(self.names.items()))[:16]

    @property
    def pin(self) -> Pin | None:
        """Its pin, made of those of its parents; None if a run began before recipes had pins."""
        pins = self.recipe.pins
        if any(name not in pins for name in self.recipe.parents):
            return None
        content = [(name, item.sha256) for name, item in pins.items()]
        runs: dict[str, str] = {}
        for name, item in pins.items():
            runs |= item.runs
            if name.startswith(RUN):
                runs[self.names[name]] = item.recipe
        return Pin(_digest(self.recipe.canonical(), content), self.recipe.digest[:16], runs)


def merged_parents(merges: Mapping[str, MergedParent]) -> Iterator[tuple[str, Checkpoint]]:
    """Yield the parents of merges that are no merges themselves, with their references."""
    for merge in merges.values():
        for reference, checkpoint in merge.checkpoints.items():
            if not reference.startswith(MERGE):
                yield reference, checkpoint


def pinned(
    recipe: Recipe, checkpoints: Mapping[str, Checkpoint], merges: Mapping[str, MergedParent]
) -> Recipe:
    """Return a recipe with pins of what its parents are now.

    Args:
        recipe: the recipe.
        checkpoints: its parents by their names in the recipe.
        merges: those that are merges themselves, by the same names.
    """
    pins = {
        name: merges[name].pin if name in merges else pin_of(name, checkpoints[name])
        for name in recipe.parents
    }
    return replace(recipe, pins={name: pin for name, pin in pins.items() if pin is not None})


def pin_of(reference: str, checkpoint: Checkpoint) -> Pin:
    """Return the pin of a parent that is no merge; a run's model lies in a folder of its digits."""
    digits = checkpoint.folder.name if reference.startswith(RUN) else ""
    return Pin(checkpoint.fingerprint, digits)


def check_pin(
    reference: str, found: Pin | None, wanted: Pin | None, parents: Sequence[str] = ()
) -> None:
    """Compare a parent with its pin in a recipe.

    Args:
        reference: the parent.
        found: what it is.
        wanted: its pin; None if it may be anything.
        parents: of a parent that is a merge, its own parents.

    Raises:
        CheckpointError: it is another model than when the recipe was written.
    """
    if found is None or wanted is None:
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


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
