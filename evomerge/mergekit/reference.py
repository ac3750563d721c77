"""References of parents in mergekit's files."""

from __future__ import annotations

from pathlib import Path

from evomerge.models.checkpoint import Checkpoint
from evomerge.models.references import split_adapter


def mergekit_reference(checkpoint: Checkpoint) -> str:
    """Return the reference of a parent in mergekit's files.

    It is the Hub id for a model in the cache of the Hub, or else the absolute path of the folder,
    without links and `..`;
    `+` and the same for the adapter follow, if there is one.
    """
    model, _, adapter = split_adapter(checkpoint.reference, Path.cwd())
    if checkpoint.folder.parent.name != "snapshots":
        model = str(checkpoint.folder.resolve())
    if checkpoint.adapter is not None:
        if checkpoint.adapter.parent.name != "snapshots":
            adapter = str(checkpoint.adapter.resolve())
        return f"{model}+{adapter}"
    return model
