"""The files in the folder of a model or adapter: which of them may be links."""

from __future__ import annotations

from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.parsing.links import check_inside, check_ordinary, entries

TEMPLATES = "additional_chat_templates"
"""Folder of chat templates beside the one that is used if none is named."""

_ONLY_READ = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".index.json")


def check_files(folder: Path) -> None:
    """Check that the files of a model are ordinary files of it.

    Weights and their index may be links to elsewhere, since they are only read; other files are
    copied into merges. In the cache of the Hub's client, all files are links to the blobs of the
    model, or to those that all models of the cache share.

    Raises:
        CheckpointError: a file is a link out of the folder, or a pipe or device.
    """
    files = entries(folder, CheckpointError)
    if (folder / TEMPLATES).is_dir():
        files += entries(folder / TEMPLATES, CheckpointError)
    check_ordinary(files, CheckpointError)
    real = folder.resolve()
    inside = [real]
    if real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--"):
        repository = real.parent.parent
        inside = [repository, repository.parent / "blobs"]
    copied = [file for file in files if not file.name.endswith(_ONLY_READ) and not file.is_dir()]
    check_inside(copied, inside, "the model", CheckpointError)
