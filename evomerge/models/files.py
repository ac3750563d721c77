"""The files in a model folder: which a merge takes over, which may be links, and their sizes."""

from collections.abc import Iterable
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.parsing.texts import check_inside, check_ordinary, entries

_TEMPLATES = "additional_chat_templates"
"""Folder of chat templates beside the one that is used if none is named."""

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model",
    "sentencepiece.bpe.model", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
PROCESSOR_FILES = tuple(
    f"{kind}_config.json"
    for kind in (
        "preprocessor", "processor", "image_processor", "video_preprocessor", "feature_extractor",
    )
)  # fmt: skip
"""Files that say how images, videos and sounds become the inputs of a model."""

_COMPANIONS = (*TOKENIZER_FILES, "generation_config.json", *PROCESSOR_FILES)
"""Files that a merged model takes over from its host, in addition to config and weights."""

_ONLY_READ = (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".index.json")


def companion_files(folder: Path) -> tuple[Path, ...]:
    """Return the files that a merged model takes over from its host, beside config and weights."""
    named = [folder / name for name in _COMPANIONS if (folder / name).is_file()]
    return (*named, *sorted((folder / _TEMPLATES).glob("*.jinja")))


def is_from_hub(folder: Path) -> bool:
    """Whether a folder is in the cache of the Hub's client, where a download is a snapshot."""
    return folder.parent.name == "snapshots" and folder.parent.parent.name.startswith("models--")


def check_files(folder: Path, inner: Iterable[str] = ()) -> None:
    """Check that the files of a model, and those in its folders `inner`, are ordinary files.

    Weights and their index may be links to elsewhere, since they are only read; other files are
    copied into merges. In the cache of the Hub's client, all files are links to the blobs of the
    model, or to those that all models of the cache share.

    CheckpointError: a link out of the folder or to nothing, or a pipe or device.
    """
    files = entries(folder, CheckpointError)
    for name in (_TEMPLATES, *inner):
        if (folder / name).is_dir():
            files += entries(folder / name, CheckpointError)
    check_ordinary(files, CheckpointError)
    real = folder.resolve()
    inside = [real]
    if is_from_hub(real):
        repository = real.parent.parent
        inside = [repository, repository.parent / "blobs"]
    copied = [file for file in files if not file.name.endswith(_ONLY_READ) and not file.is_dir()]
    check_inside(copied, inside, "the model", CheckpointError)
    for file in copied:
        if file.name in ("config.json", *_COMPANIONS) and not file.exists():
            raise CheckpointError(f"{file} is a link that leads to no file; download it again.")
