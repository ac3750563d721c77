"""The largest sizes of a model's text files: a larger file of a stranger is refused unread."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from evomerge.errors import CheckpointError

_MB = 1_000_000
_SETTINGS = 4 * _MB
"""Bytes of a file with settings; real ones have some thousand, with labels up to a million."""

_LARGEST = {
    "tokenizer.json": 256 * _MB,  # real ones have up to 40 MB
    "vocab.json": 128 * _MB,
    "vocab.txt": 128 * _MB,
    "merges.txt": 128 * _MB,
    "added_tokens.json": 32 * _MB,
    "tokenizer_config.json": 32 * _MB,  # all added tokens can be listed there
}
_INDEX = 128 * _MB  # 250,000 tensors, as of mixtures of many experts, need about 25 MB
_TEXTS = (".json", ".txt", ".jinja")


def largest_size(name: str) -> int:
    """Return the largest size in bytes of a text file of a model.

    Args:
        name: name of the file, without its folder.
    """
    return _INDEX if name.endswith(".index.json") else _LARGEST.get(name, _SETTINGS)


def check_sizes(files: Iterable[Path]) -> None:
    """Check the sizes of text files that this program or transformers reads as a whole.

    Other files, such as weights, are passed over.

    Raises:
        CheckpointError: one is larger than any real one.
    """
    for file in files:
        if not file.name.endswith(_TEXTS) or not file.is_file():
            continue
        size, largest = file.stat().st_size, largest_size(file.name)
        if size > largest:
            raise CheckpointError(
                f"{file} has {size:,} bytes, and at most {largest:,} are read of a file of this "
                "name; do not use this model, or download the file again."
            )
