"""Uniting the tokenizers of several parents into one `tokenizer.json` with all their tokens."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.errors import CheckpointError, one_line
from evomerge.merging.tokenizers.tokens import Tokens, panics_as_errors
from evomerge.parsing.values import Values

_VALUES = Values(CheckpointError)

_PIPELINE = ("normalizer", "pre_tokenizer", "decoder")
_MODEL_KEYS = ("type", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix")
_MERGES_ORDER = {"BPE": " (merges of the first parent apply before those of the others)"}


def unite(tokens: Sequence[Tokens]) -> tuple[dict[str, Any], list[str]]:
    """Return a `tokenizer.json` with the tokens of all parents, and notes on what was decided.

    The first parent's tokens keep their ids; its special tokens and its normalizer, pre-tokenizer
    and decoder are used. The other tokens get the next ids: first the tokens of the other parents'
    models, parent by parent in the order of their ids, then their added tokens.

    For BPE, merges of later parents have lower priority than those of earlier ones. So a text is
    split as by the first parent, as far as that parent's merges go. For Unigram, each token keeps
    the score that it has in its parent.

    Raises:
        CheckpointError: another parent has tokens that the first does not have, and its tokenizer
            works differently.
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
        for text in sorted(new, key=other.model.__getitem__):
            ids[text], size = size, size + 1
            pieces[text] = (other.reference, other.model[text])
        if new:
            _check_pipeline(first, other)
            notes.append(
                f"The union takes {len(new)} of its tokens from {other.reference!r}; text is "
                "tokenized with the tokens of all parents"
                f"{_MERGES_ORDER.get(first.data['model'].get('type'), '')}, so not "
                "always as by one of the parents alone."
            )
    for other in tokens[1:]:
        for text in other.added:
            if text not in ids:
                ids[text], size = size, size + 1
                data["added_tokens"].append({**other.added[text], "id": ids[text]})
    if pieces or (len(ids) > len(first.ids) and len(ids) != size):
        _extend_model(data, tokens, ids, pieces)
    return data, notes


def _check_pipeline(first: Tokens, other: Tokens) -> None:
    """Check that two tokenizers split text in the same way, apart from their tokens."""

    def parts(tokens: Tokens) -> dict[str, Any]:
        model = tokens.data["model"]
        return {
            **{key: tokens.data.get(key) for key in _PIPELINE},
            **{f"model.{key}": model.get(key) for key in _MODEL_KEYS},
            "kind of vocabulary": isinstance(model["vocab"], list),
        }

    theirs = parts(other)
    for key, mine in parts(first).items():
        if mine != theirs[key]:
            raise CheckpointError(
                f"The tokenizers of {first.reference!r} and {other.reference!r} cannot be united: "
                f"their {key} differs; set `tokenizer: {first.reference}` or another parent."
            )


def _extend_model(
    data: dict[str, Any],
    tokens: Sequence[Tokens],
    ids: Mapping[str, int],
    pieces: Mapping[str, tuple[str, int]],
) -> None:
    """Write all tokens into the model's vocabulary, added ones too, so that each gets its id."""
    model, old = data["model"], tokens[0].data["model"]["vocab"]
    model["vocab"] = dict(ids)
    if model.get("type") == "BPE":
        model["merges"] = _merges(tokens)
    if isinstance(old, list):
        scores = {item.reference: item.data["model"]["vocab"] for item in tokens}

        def piece(text: str, i: int) -> list[Any]:
            if i < len(old):
                return list(old[i])
            if text not in pieces:  # an added token; it is split off before the model gets the text
                return [text, 0.0]
            reference, own = pieces[text]
            return [text, scores[reference][own][1]]

        by_id = {i: text for text, i in ids.items()}
        model["vocab"] = [piece(by_id[i], i) for i in sorted(by_id)]


def _merges(tokens: Sequence[Tokens]) -> list[list[str]]:
    pairs: dict[tuple[str, str], None] = {}
    for item in tokens:
        where = f"model.merges of {item.reference!r}"
        for merge in _VALUES.items(item.data["model"].get("merges") or (), where):
            pair = merge.split(" ", 1) if isinstance(merge, str) else merge
            if not (
                isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(part, str) for part in pair)
            ):
                raise _VALUES.wrong(merge, where, "a list of pairs of tokens")
            pairs.setdefault((pair[0], pair[1]))
    return [list(pair) for pair in pairs]


def check_merged(data: Mapping[str, Any], ids: Mapping[str, int]) -> None:
    """Check that the tokenizers library loads a merged `tokenizer.json` and gives these ids."""
    from tokenizers import Tokenizer

    try:
        with panics_as_errors():
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
