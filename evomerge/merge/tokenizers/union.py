"""Tokens of a parent, and one `tokenizer.json` that holds the tokens of several.

All of it is JSON: no tokenizer code runs, except that the tokenizers library loads the result to
prove it. A token is what stands in the file (`Ġthe` in a byte-level vocabulary), so tokens of two
parents are the same where their texts are.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json

_PIPELINE = ("normalizer", "pre_tokenizer", "decoder")
_CUTTING = ("type", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
_FIRST = {"BPE": ", the first one's merges before the others'"}
_FLAGS = ("special", "lstrip", "rstrip", "single_word", "normalized")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one parent.

    Attributes:
        reference: the parent's reference.
        data: content of its `tokenizer.json`.
        rows: rows of its embedding matrix.
    """

    reference: str
    data: Mapping[str, Any]
    rows: int

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Tokens:
        """Read a parent's tokenizer.

        Raises:
            CheckpointError: it has no `tokenizer.json`, or that file is damaged.
        """
        file = checkpoint.folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(
                f"Parent {checkpoint.reference!r} has no tokenizer.json, which matching rows by "
                "token needs; save its tokenizer with transformers' fast tokenizer, or set "
                "`tokenizer: base`."
            )
        tokens = cls(checkpoint.reference, read_json(file), checkpoint.vocabulary)
        try:
            assert tokens.ids
        except (KeyError, TypeError, ValueError, AssertionError) as error:
            raise CheckpointError(f"{file} is no tokenizer that can be read.") from error
        return tokens

    @cached_property
    def model(self) -> dict[str, int]:
        """Tokens of the tokenizer's model by text."""
        vocabulary = self.data["model"]["vocab"]
        if isinstance(vocabulary, Mapping):
            return {str(text): int(i) for text, i in vocabulary.items()}
        return {str(piece[0]): i for i, piece in enumerate(vocabulary)}

    @cached_property
    def added(self) -> dict[str, dict[str, Any]]:
        """Entries of the added tokens by text."""
        return {str(item["content"]): dict(item) for item in self.data.get("added_tokens") or ()}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of every token by text, in the order of the ids."""
        every = {**self.model, **{text: int(item["id"]) for text, item in self.added.items()}}
        return dict(sorted(every.items(), key=lambda item: item[1]))

    @property
    def size(self) -> int:
        """1 + the largest id."""
        return 1 + max(self.ids.values())

    def row(self, text: str) -> int:
        """Return the row of a token in the parent's embedding matrix, or -1."""
        row = self.ids.get(text, -1)
        return row if row < self.rows else -1


def check_alphabet(tokens: Sequence[Tokens]) -> None:
    """Check that equal texts mean equal tokens in all parents.

    Raises:
        CheckpointError: two parents spell their tokens differently (byte-level and SentencePiece,
            say), so that their rows cannot be matched.
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


def unite(tokens: Sequence[Tokens]) -> tuple[dict[str, Any], list[str]]:
    """Return a `tokenizer.json` with the tokens of all parents, and what was decided.

    The first parent's ids, pipeline and special tokens stay; the tokens that only later parents
    have follow behind, parent by parent in the order of their ids, those of the model before
    added ones. Merges (BPE) of later parents rank behind those of earlier ones, so text is cut as
    the first parent does it as long as its merges apply; scores (Unigram) stay as they are.

    Args:
        tokens: the parents, the one whose ids stay first.

    Raises:
        CheckpointError: a later parent has tokens of its own and another kind of tokenizer.
    """
    first = tokens[0]
    data = copy.deepcopy(dict(first.data))
    notes: list[str] = []
    ids = dict(first.ids)
    pieces: dict[str, tuple[str, int]] = {}
    size = first.size
    for other in tokens[1:]:
        new = [text for text in other.model if text not in ids and text not in other.added]
        if new:
            _check_pipeline(first, other)
        for text in sorted(new, key=other.model.__getitem__):
            ids[text], size = size, size + 1
            pieces[text] = (other.reference, other.model[text])
        if new:
            notes.append(
                f"{len(new)} tokens come from {other.reference!r}; text is cut by what all parents "
                f"know{_FIRST.get(first.data['model'].get('type'), '')}, so not always as either "
                "parent does alone."
            )
    for other in tokens[1:]:
        for text in other.added:
            if text not in ids:
                ids[text], size = size, size + 1
                data["added_tokens"].append({**other.added[text], "id": ids[text]})
    notes += _conflicts(tokens)
    if pieces or (len(ids) > len(first.ids) and len(ids) != size):
        _extend_model(data, tokens, ids, pieces)
    return data, notes


def _check_pipeline(first: Tokens, other: Tokens) -> None:
    pairs: list[tuple[str, Any, Any]] = [
        (key, first.data.get(key), other.data.get(key)) for key in _PIPELINE
    ]
    models = first.data["model"], other.data["model"]
    pairs += [(f"model.{key}", models[0].get(key), models[1].get(key)) for key in _CUTTING]
    for key, mine, theirs in pairs:
        if mine != theirs:
            raise CheckpointError(
                f"The tokenizers of {first.reference!r} and {other.reference!r} cannot be united: "
                f"their {key} differs; set `tokenizer: {first.reference}` or another parent."
            )


def _conflicts(tokens: Sequence[Tokens]) -> list[str]:
    notes = []
    first = tokens[0]
    for other in tokens[1:]:
        for text, entry in other.added.items():
            mine = first.added.get(text)
            if mine is None and text in first.model:
                notes.append(
                    f"Token {text!r} is an added token in {other.reference!r} and a plain one in "
                    f"{first.reference!r}; it stays plain."
                )
            elif mine is not None:
                differing = [key for key in _FLAGS if mine.get(key) != entry.get(key)]
                if differing:
                    notes.append(
                        f"Token {text!r} has another {', '.join(differing)} in "
                        f"{other.reference!r}; {first.reference!r}'s is kept."
                    )
    return notes


def _extend_model(
    data: dict[str, Any],
    tokens: Sequence[Tokens],
    ids: Mapping[str, int],
    pieces: Mapping[str, tuple[str, int]],
) -> None:
    """Put new tokens into the model; added tokens join them, so that all keep their ids."""
    model = data["model"]
    model["vocab"] = dict(ids)
    if model.get("type") == "BPE":
        model["merges"] = _merges(tokens)
    if model.get("type") == "Unigram":
        by_id = {i: text for text, i in ids.items()}
        scores = {item.reference: item.data["model"]["vocab"] for item in tokens}
        old = tokens[0].data["model"]["vocab"]
        model["vocab"] = [
            old[i] if i < len(old) else _piece(by_id[i], pieces, scores) for i in sorted(by_id)
        ]


def _piece(
    text: str, pieces: Mapping[str, tuple[str, int]], scores: Mapping[str, Sequence[Any]]
) -> list[Any]:
    if text not in pieces:  # an added token, which is cut out before the model sees the text
        return [text, 0.0]
    reference, i = pieces[text]
    return [text, scores[reference][i][1]]


def _merges(tokens: Sequence[Tokens]) -> list[list[str]]:
    pairs: dict[tuple[str, str], None] = {}
    for item in tokens:
        for merge in item.data["model"].get("merges", ()):
            left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
            pairs.setdefault((left, right))
    return [list(pair) for pair in pairs]


def prove(data: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """Load a tokenizer with the tokenizers library and check that every token has its id.

    Raises:
        CheckpointError: the library refuses it or numbers the tokens otherwise.
    """
    import json

    from tokenizers import Tokenizer

    try:
        loaded = Tokenizer.from_str(json.dumps(data))
    except Exception as error:  # the library raises plain Exception
        raise CheckpointError(f"The merged tokenizer cannot be loaded: {error}.") from error
    found = loaded.get_vocab(with_added_tokens=True)
    for text, i in ids.items():
        if found.get(text) != i:
            raise CheckpointError(
                f"The merged tokenizer gives token {text!r} the id {found.get(text)} and not {i}; "
                "set `tokenizer` to one of the parents."
            )
