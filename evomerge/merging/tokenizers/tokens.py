"""The tokens of one parent, read from its `tokenizer.json`.

A token is identified by its text in that file (`Ġthe` in a byte-level vocabulary). Tokens of two
parents are the same if their texts are equal. Only JSON is read; no code of a tokenizer runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json
from evomerge.parsing.values import Values

_VALUES = Values(CheckpointError)

_LARGEST_ID = 2**22
"""Far above the ids of real vocabularies. Lists with one entry for each id are made later."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one parent.

    Attributes:
        reference: reference of the parent.
        data: content of its `tokenizer.json`.
        rows: number of rows of its embedding matrix.
    """

    reference: str
    data: Mapping[str, Any]
    rows: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Tokens:
        """Read the tokenizer of a parent.

        Raises:
            CheckpointError: the parent has no `tokenizer.json`, or the file is damaged.
        """
        file = checkpoint.folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"Parent {checkpoint.reference!r} has no tokenizer.json, which is needed to match "
                "rows by token; save its tokenizer as a fast tokenizer with transformers, or set "
                "`tokenizer: base`."
            )
        data = read_json(file)
        _check_tokenizer(data, f"{file}: ")
        tokens = cls(checkpoint.reference, data, checkpoint.vocabulary)
        if not tokens.ids:
            raise CheckpointError(f"{file} has no tokens; download it again.")
        return tokens

    @cached_property
    def model(self) -> dict[str, int]:
        """Text -> id, for the tokens of the tokenizer's model (without added tokens)."""
        vocabulary = self.data["model"]["vocab"]
        if isinstance(vocabulary, Mapping):
            return dict(vocabulary)
        return {piece[0]: i for i, piece in enumerate(vocabulary)}

    @cached_property
    def added(self) -> dict[str, dict[str, Any]]:
        """Text -> entry in `added_tokens`, for the added tokens."""
        return {item["content"]: dict(item) for item in self.data.get("added_tokens") or ()}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Text -> id, for all tokens, in the order of their ids."""
        all_ids = {**self.model, **{text: item["id"] for text, item in self.added.items()}}
        return dict(sorted(all_ids.items(), key=lambda item: item[1]))

    @property
    def size(self) -> int:
        """1 + the largest id."""
        return 1 + max(self.ids.values())

    def row(self, text: str) -> int:
        """Return the row of a token in the parent's embedding matrix, or -1 if it has none."""
        row = self.ids.get(text, -1)
        return row if row < self.rows else -1


def _check_tokenizer(data: Mapping[str, Any], file: str) -> None:
    """Check the types of the values in a `tokenizer.json` that this package uses.

    Args:
        data: content of the file.
        file: start of every address in error messages.

    Raises:
        CheckpointError: a value has the wrong type, or an id is too large.
    """
    model = _VALUES.mapping(data.get("model"), f"{file}model")
    kind, vocabulary = model.get("type"), model.get("vocab")
    if not (kind is None or isinstance(kind, str)):
        raise _VALUES.wrong(kind, f"{file}model.type", "text")
    # Old files have no `type`. Only Unigram has a list of (token, score) pairs as vocabulary.
    if kind == "Unigram" or (kind is None and isinstance(vocabulary, list)):
        pieces = _VALUES.items(vocabulary, f"{file}model.vocab")
        if not all(map(_is_piece, pieces)):
            raise CheckpointError(f"`{file}model.vocab` must be a list of [token, score].")
    elif not all(map(_is_id, _VALUES.mapping(vocabulary, f"{file}model.vocab").values())):
        raise CheckpointError(
            f"`{file}model.vocab` must be a mapping from token to id, from 0 to {_LARGEST_ID}."
        )
    for i, item in enumerate(_VALUES.items(data.get("added_tokens") or (), f"{file}added_tokens")):
        where = f"{file}added_tokens[{i}]"
        entry = _VALUES.mapping(item, where)
        if not isinstance(entry.get("content"), str):
            raise _VALUES.wrong(entry.get("content"), f"{where}.content", "text")
        _VALUES.whole(entry.get("id"), f"{where}.id", most=_LARGEST_ID)


def _is_id(value: Any) -> bool:
    return type(value) is int and 0 <= value <= _LARGEST_ID


def _is_piece(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 2
        and isinstance(value[0], str)
        and isinstance(value[1], (int, float))
    )


def check_spelling(tokens: Sequence[Tokens]) -> None:
    """Check that all parents spell their tokens alike, so that equal texts are equal tokens.

    Raises:
        CheckpointError: two parents spell tokens differently (byte-level and SentencePiece, for
            example), so that their rows cannot be matched.
    """
    first = tokens[0]
    for other in tokens[1:]:
        if _spelling(first) != _spelling(other):
            raise CheckpointError(
                f"The tokenizers of {first.reference!r} ({_spelling(first)}) and "
                f"{other.reference!r} ({_spelling(other)}) spell their tokens differently, so "
                "rows cannot be matched by token; merge parents of one tokenizer family."
            )


def _spelling(tokens: Tokens) -> str:
    text = str(tokens.data.get("decoder")) + str(tokens.data.get("pre_tokenizer"))
    if "ByteLevel" in text:
        return "byte-level"
    return "SentencePiece" if "Metaspace" in text or "\u2581" in text else "plain"
