"""The tokens of one parent, read from its `tokenizer.json`, and whether those of parents fit.

Tokens of two parents are the same if their texts in that file are equal (`Ġthe` in a byte-level
vocabulary). Only JSON is read; no code of a tokenizer runs.
"""

import copy
import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

from evomerge.errors import CheckpointError, blaming
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json

_PIPELINE = ("normalizer", "pre_tokenizer", "decoder")
_MODEL_KEYS = ("type", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")

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
    def of(cls, checkpoint: Checkpoint) -> Self:
        """Read a parent's `tokenizer.json`; `CheckpointError` if there is none or it is damaged."""
        file = checkpoint.folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"Parent {checkpoint.reference!r} has no tokenizer.json to match rows by; save its "
                "tokenizer as a fast one with transformers, or set `tokenizer: base`."
            )
        tokens = cls(checkpoint.reference, read_json(file), checkpoint.vocabulary)
        try:
            ids: Mapping[Any, Any] = tokens.ids
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            ids = {}
        are_ids = (type(i) is int and 0 <= i <= _LARGEST_ID for i in ids.values())
        if not (ids and all(isinstance(text, str) for text in ids) and all(are_ids)):
            raise CheckpointError(
                f"{file} has no `model.vocab` of tokens with ids from 0 to {_LARGEST_ID}, or other "
                "`added_tokens`; download it again."
            )
        return tokens

    @cached_property
    def model(self) -> dict[str, int]:
        """Text -> id, for the tokens of the tokenizer's model (without added tokens)."""
        vocabulary = self.data["model"]["vocab"]
        if isinstance(vocabulary, Mapping):
            return dict(vocabulary)
        return {text: i for i, (text, _) in enumerate(vocabulary)}

    @cached_property
    def added(self) -> dict[str, dict[str, Any]]:
        """Text -> entry in `added_tokens`, for the added tokens."""
        return {item["content"]: dict(item) for item in self.data.get("added_tokens") or ()}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Text -> id, for all tokens, in the order of their ids."""
        all_ids = {**self.model, **{text: item["id"] for text, item in self.added.items()}}
        return dict(sorted(all_ids.items(), key=lambda item: item[1]))

    @cached_property
    def by_id(self) -> dict[int, set[str]]:
        """Id -> texts of its tokens; an added token can have the id of another token."""
        texts: dict[int, set[str]] = {}
        for text, i in self.ids.items():
            texts.setdefault(i, set()).add(text)
        return texts

    @property
    def size(self) -> int:
        """1 + the largest id."""
        return 1 + max(self.ids.values())

    def row(self, text: str) -> int:
        """Return the row of a token in the parent's embedding matrix, or -1 if it has none."""
        row = self.ids.get(text, -1)
        return row if row < self.rows else -1


def check_spelling(tokens: Sequence[Tokens]) -> None:
    """Raise `CheckpointError` unless all parents spell tokens alike: equal texts, equal tokens."""
    first = tokens[0]
    for other in tokens[1:]:
        if spelling(first) != spelling(other):
            raise CheckpointError(
                f"The tokenizers of {first.reference!r} ({spelling(first)}) and "
                f"{other.reference!r} ({spelling(other)}) spell their tokens differently; merge "
                "parents of one family, or make them one with mergekit-tokensurgeon first."
            )


def spelling(tokens: Tokens) -> str:
    """Return how tokens are spelled: `byte-level`, `SentencePiece` or `plain`."""
    text = str(tokens.data.get("decoder")) + str(tokens.data.get("pre_tokenizer"))
    if "ByteLevel" in text:
        return "byte-level"
    return "SentencePiece" if "Metaspace" in text or "\u2581" in text else "plain"


def check_ids(parents: Sequence[Checkpoint], below: float = math.inf) -> None:
    """Check that no id is different tokens in two parents, and no token of the first another id.

    An id without a token, or with a reserved one, is allowed: its row is padding, which another
    parent may have used for an added token. Parents without a `tokenizer.json` are not checked, nor
    are ids from `below` on. `CheckpointError`: two parents disagree.
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
        for i, texts in one.by_id.items():
            theirs = other.by_id.get(i, texts)
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


def unite(tokens: Sequence[Tokens]) -> tuple[dict[str, Any], list[str]]:
    """Return a `tokenizer.json` with the tokens of all parents, and notes on what was decided.

    The first parent's tokens keep their ids; its special tokens and its normalizer, pre-tokenizer
    and decoder are used. The other tokens get the next ids: first those of the other parents'
    models, parent by parent in the order of their ids, then their added tokens. For BPE, merges of
    later parents have lower priority.

    Raises:
        CheckpointError: another parent has tokens that the first does not have, and its tokenizer
            works differently, or is a Unigram model, whose scores do not compare.
    """
    first = tokens[0]
    data = copy.deepcopy(dict(first.data))
    notes: list[str] = []
    ids = dict(first.ids)
    data["added_tokens"] = list(data.get("added_tokens") or ())
    size = first.size
    for other in tokens[1:]:
        new = [text for text in other.model if text not in ids and text not in other.added]
        for text in sorted(new, key=other.model.__getitem__):
            ids[text], size = size, size + 1
        if new:
            _check_pipeline(first, other)
            order = " (merges of the first parent apply before those of the others)"
            notes.append(
                f"The union takes {len(new)} of its tokens from {other.reference!r}; text is split "
                f"by those of all parents{order * (data['model'].get('type') == 'BPE')}, so not "
                "always as by one alone."
            )
    for other in tokens[1:]:
        for text in other.added:
            if text not in ids:
                ids[text], size = size, size + 1
                data["added_tokens"].append({**other.added[text], "id": ids[text]})
    # All tokens must be in the model, added ones too, where these do not just follow the others.
    if notes or len(first.ids) < len(ids) != size:
        data["model"]["vocab"] = dict(ids)
        if data["model"].get("type") == "BPE":
            data["model"]["merges"] = _merges(tokens)
    return data, notes


def _check_pipeline(first: Tokens, other: Tokens) -> None:
    """Check that two tokenizers split text in the same way, apart from their tokens."""
    one, two = first.data["model"], other.data["model"]
    same = {key: first.data.get(key) == other.data.get(key) for key in _PIPELINE}
    same |= {f"model.{key}": one.get(key) == two.get(key) for key in _MODEL_KEYS}
    same["Unigram scores"] = not any(isinstance(it["vocab"], list) for it in (one, two))
    for key, is_same in same.items():
        if not is_same:
            raise CheckpointError(
                f"The tokenizers of {first.reference!r} and {other.reference!r} cannot be united: "
                f"their {key} differs; set `tokenizer: {first.reference}` or another parent."
            )


def _merges(tokens: Sequence[Tokens]) -> list[list[str]]:
    pairs: dict[tuple[str, str], None] = {}
    for item in tokens:
        try:
            for merge in item.data["model"].get("merges") or ():
                left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
                pairs.setdefault((left, right))
        except (TypeError, ValueError):
            raise CheckpointError(
                f"`model.merges` in tokenizer.json of {item.reference!r} are no pairs of tokens; "
                "download it again."
            ) from None
    return [list(pair) for pair in pairs]


def check_merged(data: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """Check that the tokenizers library loads a merged `tokenizer.json` and gives these ids."""
    from tokenizers import Tokenizer

    with blaming(CheckpointError, "The merged tokenizer does not load: {reason}."):
        loaded = Tokenizer.from_str(json.dumps(data)).get_vocab(with_added_tokens=True)
    if moved := [text for text, i in ids.items() if loaded.get(text) != i]:
        raise CheckpointError(
            f"The merged tokenizer gives token {moved[0]!r} another id than the merged model; set "
            "`tokenizer` to one of the parents."
        )
