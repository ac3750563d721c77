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

from evomerge.errors import CheckpointError, one_line
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import read_json
from evomerge.parsing.values import Values

_VALUES = Values(CheckpointError)

_LARGEST_ID = 2**22
"""Far above every vocabulary there is; a list is made with a place for every id."""

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
        data = read_json(file)
        _check_tokenizer(data, f"{file}: ")
        tokens = cls(checkpoint.reference, data, checkpoint.vocabulary)
        if not tokens.ids:
            raise CheckpointError(f"{file} is a tokenizer without tokens; download it again.")
        return tokens

    @cached_property
    def model(self) -> dict[str, int]:
        """Tokens of the tokenizer's model by text."""
        vocabulary = self.data["model"]["vocab"]
        if isinstance(vocabulary, Mapping):
            return dict(vocabulary)
        return {piece[0]: i for i, piece in enumerate(vocabulary)}

    @cached_property
    def added(self) -> dict[str, dict[str, Any]]:
        """Entries of the added tokens by text."""
        return {item["content"]: dict(item) for item in self.data.get("added_tokens") or ()}

    @cached_property
    def ids(self) -> dict[str, int]:
        """Id of every token by text, in the order of the ids."""
        every = {**self.model, **{text: item["id"] for text, item in self.added.items()}}
        return dict(sorted(every.items(), key=lambda item: item[1]))

    @property
    def size(self) -> int:
        """1 + the largest id."""
        return 1 + max(self.ids.values())

    def row(self, text: str) -> int:
        """Return the row of a token in the parent's embedding matrix, or -1."""
        row = self.ids.get(text, -1)
        return row if row < self.rows else -1


def _check_tokenizer(data: Mapping[str, Any], file: str) -> None:
    """Check the types of what is used of a `tokenizer.json`.

    Args:
        data: its content.
        file: what begins every address in an error.

    Raises:
        CheckpointError: something has the wrong type, or an id is no vocabulary's.
    """
    model = _VALUES.mapping(data.get("model"), f"{file}model")
    kind, vocabulary = model.get("type"), model.get("vocab")
    if not (kind is None or isinstance(kind, str)):
        raise _VALUES.wrong(kind, f"{file}model.type", "text")
    # The library's old files name no type; pieces with scores are Unigram's alone.
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
    data["added_tokens"] = list(data.get("added_tokens") or ())
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
    lists = [isinstance(model["vocab"], list) for model in models]
    pairs.append(("kind of vocabulary", lists[0], lists[1]))
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
    if isinstance(tokens[0].data["model"]["vocab"], list):
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
        where = f"model.merges of {item.reference!r}"
        for merge in _VALUES.items(item.data["model"].get("merges") or (), where):
            pair = merge.split(" ", 1) if isinstance(merge, str) else merge
            if not (isinstance(pair, list) and len(pair) == 2 and all(map(_is_text, pair))):
                raise _VALUES.wrong(merge, where, "a list of pairs of tokens")
            pairs.setdefault((pair[0], pair[1]))
    return [list(pair) for pair in pairs]


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


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
        raise CheckpointError(
            f"The merged tokenizer cannot be loaded: {one_line(error)}."
        ) from error
    found = loaded.get_vocab(with_added_tokens=True)
    for text, i in ids.items():
        if found.get(text) != i:
            raise CheckpointError(
                f"The merged tokenizer gives token {text!r} the id {found.get(text)} and not {i}; "
                "set `tokenizer` to one of the parents."
            )
