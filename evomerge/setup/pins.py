"""Pins of a recipe: what its parents were when it was written.

A recipe names its parents, and what has this name may change: a model is trained further, another
one is put into its folder. So each recipe that is written has the fingerprint of each parent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import open_parent
from evomerge.recipe import Pin, Recipe


def pinned(recipe: Recipe, checkpoints: Mapping[str, Checkpoint]) -> Recipe:
    """Return a recipe with pins of what its parents are now."""
    pins = {name: Pin(checkpoints[name].fingerprint) for name in recipe.parents}
    return replace(recipe, pins=pins)


def open_pinned(reference: str, relative_to: Path, pin: Pin | None) -> Checkpoint:
    """Open a parent of a recipe.

    Raises:
        CheckpointError: the parent is missing or damaged, or is not what the pin says.
    """
    found = open_parent(reference, relative_to)
    if pin is not None and pin.sha256 not in ("", found.fingerprint):
        raise CheckpointError(
            f"Parent {reference!r} is not the model that the recipe was made from: its fingerprint "
            f"was {pin.sha256[:16]} and is {found.fingerprint[:16]}; put it back as it was, use a "
            "model that was exported, or remove the parent from `pins` of the recipe to merge what "
            "is there now."
        )
    return found
