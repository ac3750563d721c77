"""The files in a model folder: which of them a merge takes over, and which may be links."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.models.file_sizes import check_sizes
from evomerge.parsing.links import check_inside, check_ordinary, entries

_TEMPLATES = "additional_chat_templates"
"""Folder of chat templates beside the one that is used if none is named."""

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.json",
    "chat_template.jinja",
)
_COMPANIONS = (
    *TOKENIZER_FILES,
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "image_processor_config.json",
    "video_preprocessor_config.json",
    "feature_extractor_config.json",
)
"""Files that a merged model takes over from its host, in addition to config and weights."""

_READ, _READ_ENDS = frozenset({"config.json", *_COMPANIONS}), (".index.json", ".jinja")
"""Text files that are read as a whole, and how the names of others end."""

_ONLY_READ = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".index.json")


def companion_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a merged model takes over from its host, beside config and weights.

    These are the existing files of the tokenizer, the generation config and the processors, and
    additional chat templates.
    """
    named = [folder / name for name in _COMPANIONS if (folder / name).is_file()]
    return (*named, *sorted((folder / _TEMPLATES).glob("*.jinja")))


def check_files(folder: Path) -> None:
    """Check that the files of a model are ordinary files of it.

    Weights and their index may be links to elsewhere, since they are only read; other files are
    copied into merges. In the cache of the Hub's client, all files are links to the blobs of the
    model, or to those that all models of the cache share.

    Raises:
        CheckpointError: a file is a link out of the folder or to nothing, a pipe or device, or a
            text file that is too large.
    """
    files = entries(folder, CheckpointError)
    if (folder / _TEMPLATES).is_dir():
        files += entries(folder / _TEMPLATES, CheckpointError)
    check_ordinary(files, CheckpointError)
    real = folder.resolve()
    inside = [real]
    if real.parent.name == "snapshots" and real.parent.parent.name.startswith("models--"):
        repository = real.parent.parent
        inside = [repository, repository.parent / "blobs"]
    copied = [file for file in files if not file.name.endswith(_ONLY_READ) and not file.is_dir()]
    check_inside(copied, inside, "the model", CheckpointError)
    read = [file for file in files if file.name in _READ or file.name.endswith(_READ_ENDS)]
    _check_reached(read)
    check_sizes(read)


def _check_reached(files: Iterable[Path]) -> None:
    """Check that no file is a link to nothing, which would count as a file that is not there."""
    for file in files:
        if not file.exists():
            raise CheckpointError(
                f"{file} is a link that leads to no file; put the file itself in its place, or "
                "download it again."
            )
