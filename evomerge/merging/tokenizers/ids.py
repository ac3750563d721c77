"""Check that an id is the same token in all parents, if rows are merged by id."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path

from evomerge.errors import CheckpointError
from evomerge.merging.tokenizers.tokens import Tokens
from evomerge.models.checkpoint import Checkpoint

_RESERVED = re.compile(
    r"[<\[{]\W?\w*?(reserved|unused|placeholder|dummy|extra|filler|special|control)\w*?\d+\W?[>\]}]",
    re.IGNORECASE,
)
"""Tokens that reserve a row: `<|reserved_special_token_7|>`, `[unused7]`, `[control_7]`."""


def check_ids(parents: Sequence[Checkpoint], below: float = math.inf) -> None:
    """Check that no id is different tokens in two parents, and no token of the host another id.

    An id without a token, or with a reserved token, is allowed in any parent: its row is padding,
    which another parent may have used for an added token. Parents without a `tokenizer.json` are
    not checked.

    Args:
        parents: all parents, the host first.
        below: only ids below this are compared.

    Raises:
        CheckpointError: two parents disagree, or a tokenizer is damaged.
    """
    different: list[Checkpoint] = []
    for parent in parents:
        file = _file(parent)
        if file.is_file() and not any(_same(file, _file(other)) for other in different):
            different.append(parent)
    if len(different) < 2:
        return
    tokens = [Tokens.of(parent) for parent in different]
    for one, other in itertools.combinations(tokens, 2):
        _check_pair(one, other, parents[0].reference, below)


def _file(parent: Checkpoint) -> Path:
    return parent.folder / "tokenizer.json"


def _check_pair(one: Tokens, other: Tokens, host: str, below: float) -> None:
    advice = (
        f"set `tokenizer: union` (in a mergekit file `tokenizer_source: union`), or name a parent "
        f"(`tokenizer: {host}`), to match rows by token"
    )
    others = _by_id(other)
    for i, texts in _by_id(one).items():
        if i >= below:
            continue
        other_texts = others.get(i, texts)
        reserved = any(map(_RESERVED.fullmatch, {*texts, *other_texts}))
        if other_texts.isdisjoint(texts) and not reserved:
            raise CheckpointError(
                f"Tokenizers do not fit: id {i} is the token {min(texts)!r} in {one.reference!r} "
                f"and {min(other_texts)!r} in {other.reference!r}; {advice}."
            )
    if one.reference != host:
        return
    for text, i in one.ids.items():
        if i < below and other.ids.get(text, i) != i:
            raise CheckpointError(
                f"Tokenizers do not fit: token {text!r} has the id {i} in {one.reference!r} and "
                f"{other.ids[text]} in {other.reference!r}; {advice}."
            )


def _by_id(tokens: Tokens) -> dict[int, set[str]]:
    """Return id -> texts of its tokens; an added token can have the id of another token."""
    found: dict[int, set[str]] = {}
    for text, i in tokens.ids.items():
        found.setdefault(i, set()).add(text)
    return found


def _same(one: Path, other: Path) -> bool:
    return one.stat().st_size == other.stat().st_size and one.read_bytes() == other.read_bytes()
