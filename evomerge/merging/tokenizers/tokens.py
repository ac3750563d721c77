"""The tokens of one parent, read from its `tokenizer.json`, and whether those of parents fit.

A token is identified by its text in that file (`Ġthe` in a byte-level vocabulary). Tokens of two
parents are the same if their texts are equal. Only JSON is read; no code of a tokenizer runs.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evomerge.errors import CheckpointError, one_line
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json
from evomerge.parsing.values import Values

_VALUES = Values(CheckpointError)

_LARGEST_ID = 2**22
"""Far above the ids of real vocabularies. Lists with one entry for each id are made later."""

_RESERVED = re.compile(
    r"[<\[{]\W?\w*?(reserved|unused|placeholder|dummy|extra|filler|special|control)\w*?\d+\W?[>\]}]",
    re.IGNORECASE,
)
"""Tokens that reserve a row: `<|reserved_special_token_7|>`, `[unused7]`, `[control_7]`."""


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of the parent `reference`: its `tokenizer.json`, and its number of embeddings."""

    reference: str
    data: Mapping[str, Any]
    rows: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Tokens:
        """Read a parent's `tokenizer.json`; `CheckpointError` if there is none or it is damaged."""
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
    def by_id(self) -> dict[int, set[str]]:
        """Id -> texts of its tokens; an added token can have the id of another token."""
        found: dict[int, set[str]] = {}
        for text, i in self.ids.items():
            found.setdefault(i, set()).add(text)
        return found

    @property
    def size(self) -> int:
        """1 + the largest id."""
        return 1 + max(self.ids.values())

    def row(self, text: str) -> int:
        """Return the row of a token in the parent's embedding matrix, or -1 if it has none."""
        row = self.ids.get(text, -1)
        return row if row < self.rows else -1


def _check_tokenizer(data: Mapping[str, Any], file: str) -> None:
    """Check the types of the values in a `tokenizer.json` that this package uses."""
    model = _VALUES.mapping(data.get("model"), f"{file}model")
    kind, vocabulary, where = model.get("type"), model.get("vocab"), f"{file}model.vocab"
    # Old files have no `type`. Only Unigram has a list of (token, score) pairs as vocabulary.
    if kind == "Unigram" or (kind is None and isinstance(vocabulary, list)):
        for piece in _VALUES.items(vocabulary, where):
            if not (isinstance(piece, list) and [*map(type, piece)] in ([str, float], [str, int])):
                raise _VALUES.wrong(piece, where, "a list of [token, score]")
    else:
        for i in _VALUES.mapping(vocabulary, where).values():
            _VALUES.whole(i, where, most=_LARGEST_ID)
    for i, item in enumerate(_VALUES.items(data.get("added_tokens") or (), f"{file}added_tokens")):
        where = f"{file}added_tokens[{i}]"
        if not isinstance(_VALUES.mapping(item, where).get("content"), str):
            raise _VALUES.wrong(item.get("content"), f"{where}.content", "text")
        _VALUES.whole(item.get("id"), f"{where}.id", most=_LARGEST_ID)


def check_spelling(tokens: Sequence[Tokens]) -> None:
    """Check that all parents spell their tokens alike, so that equal texts are equal tokens.

    Byte-level and SentencePiece tokenizers, for example, do not: `CheckpointError`.
    """
    first = tokens[0]
    for other in tokens[1:]:
        if spelling(first) != spelling(other):
            raise CheckpointError(
                f"The tokenizers of {first.reference!r} ({spelling(first)}) and "
                f"{other.reference!r} ({spelling(other)}) spell their tokens differently, so "
                "rows cannot be matched by token; merge parents of one tokenizer family, or give "
                "one the vocabulary of the other first (mergekit-tokensurgeon does)."
            )


def spelling(tokens: Tokens) -> str:
    """Return how tokens are spelled: `byte-level`, `SentencePiece` or `plain`."""
    text = str(tokens.data.get("decoder")) + str(tokens.data.get("pre_tokenizer"))
    if "ByteLevel" in text:
        return "byte-level"
    return "SentencePiece" if "Metaspace" in text or "\u2581" in text else "plain"


def check_ids(parents: Sequence[Checkpoint], below: float = math.inf) -> None:
    """Check that no id is different tokens in two parents, and no token of the first another id.

    An id without a token, or with a reserved token, is allowed in any parent: its row is padding,
    which another parent may have used for an added token. Parents without a `tokenizer.json` are
    not checked, nor are ids from `below` on.

    Raises:
        CheckpointError: two parents disagree.
    """
    different: dict[bytes, Checkpoint] = {}
    for parent in parents:
        file = parent.folder / "tokenizer.json"
        if file.is_file():
            different.setdefault(hashlib.sha256(file.read_bytes()).digest(), parent)
    tokens = map(Tokens.of, different.values() if len(different) > 1 else ())
    host = parents[0].reference
    advice = (
        "set `tokenizer: union` (in a mergekit file `tokenizer_source: union`), or name a parent "
        f"(`tokenizer: {host}`), to match rows by token"
    )
    for one, other in itertools.combinations(tokens, 2):
        by_id = other.by_id
        for i, texts in one.by_id.items():
            theirs = by_id.get(i, texts)
            reserved = any(map(_RESERVED.fullmatch, texts | theirs))
            if i < below and theirs.isdisjoint(texts) and not reserved:
                raise CheckpointError(
                    f"Tokenizers do not fit: id {i} is the token {min(texts)!r} in "
                    f"{one.reference!r} and {min(theirs)!r} in {other.reference!r}; {advice}."
                )
        for text, i in one.ids.items() if one.reference == host else ():
            if i < below and other.ids.get(text, i) != i:
                raise CheckpointError(
                    f"Tokenizers do not fit: token {text!r} has the id {i} in {one.reference!r} "
                    f"and {other.ids[text]} in {other.reference!r}; {advice}."
                )


@contextmanager
def panics_as_errors() -> Iterator[None]:
    """Turn a panic in the block into an ordinary error.

    A panic is a fault in the Rust code of the tokenizers library, such as an index that is out of
    range. It reaches Python as an exception that is no `Exception`, of a class that cannot be
    imported, so that no handler of errors would catch it. It becomes a `RuntimeError`.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ == "pyo3_runtime":
            raise RuntimeError(one_line(error)) from error
        raise
