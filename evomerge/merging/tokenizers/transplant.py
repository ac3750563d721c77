"""Giving a model the vocabulary of another one, the donor (`evomerge transplant`).

Tokens that both have keep the model's rows. Each other row of embeddings and head becomes a sum of
the model's rows, with weights (`Combination`) that are found in one of two ways:

`by_atoms`     the donor's row of the token as a sum of its rows of the tokens that both have
               (orthogonal matching pursuit); the same sum of the model's rows.
`by_pieces`    the average of the rows of the pieces into which the model's tokenizer cuts the text.

Rows without a token (padding), tokens that are never used, and texts that the model's tokenizer
does not know get the average of the matrix: their logit is never the highest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.errors import CheckpointError
from evomerge.merging.tokenizers.plan import (
    GENERATION,
    ROLES,
    check_images,
    content_of,
    special_ids,
    template_files,
    tokenizer_config,
    tokenizer_files,
)
from evomerge.merging.tokenizers.pursuit import pursue
from evomerge.merging.tokenizers.spelling import Spelled
from evomerge.merging.tokenizers.templates import template_of
from evomerge.merging.tokenizers.tokens import Tokens
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import TOKENIZER_FILES
from evomerge.parsing.texts import json_value
from evomerge.parsing.values import shown

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Combination:
    """The new rows of a matrix as sums of its old ones.

    Attributes:
        weights: sparse matrix (scipy's CSR), float32, of the shape (new rows, old rows).
    """

    weights: Any

    @property
    def filled(self) -> NDArray[np.bool_]:
        """Whether each new row is a sum, and no average of the matrix."""
        filled: NDArray[np.bool_] = np.diff(self.weights.indptr) > 0
        return filled

    def apply(self, matrix: Tensor) -> Tensor:
        """Return the new matrix or bias in the dtype of the old one; a row that stays, stays."""
        import torch

        exact = matrix.double() if matrix.dtype == torch.float64 else matrix.float()
        return torch.from_numpy(self.weights @ exact.numpy()).to(matrix.dtype)


@dataclass(frozen=True, eq=False)
class Transplant:
    """Which rows a model has for the tokens of a donor.

    Attributes:
        size: number of rows of the donor, with padding.
        kept: id of the donor -> row of the model, for tokens that both have.
        missing: id of the donor -> its text, for the other tokens that texts can have.
    """

    model: Spelled
    donor: Spelled
    size: int
    kept: Mapping[int, int]
    missing: Mapping[int, bytes]

    @classmethod
    def of(cls, model: Checkpoint, donor: Checkpoint) -> Transplant:
        """Compare the tokenizers. No weights are read.

        Special tokens are the same if their texts are equal, or else if they have the same role
        (bos, eos, ...) and no other token of the donor has got the row.

        Raises:
            CheckpointError: a tokenizer is missing, damaged or not supported, both have the same
                tokens with the same ids, or none in common.
        """
        mine, theirs = Spelled.of(Tokens.of(model)), Spelled.of(Tokens.of(donor))
        rows = mine.tokens.rows
        kept = {i: mine.added[text] for text, i in theirs.added.items() if text in mine.added}
        for text, i in theirs.ordinary.items():
            if text in mine.ordinary:
                kept.setdefault(i, mine.ordinary[text])
        kept = {i: row for i, row in kept.items() if row < rows}
        if not kept:
            raise CheckpointError(
                f"{model.reference!r} and {donor.reference!r} have no token in common; name "
                "another donor."
            )
        own = _roles(model, mine.tokens)
        for role, i in _roles(donor, theirs.tokens).items():
            if i not in kept and own.get(role, rows) < rows and own[role] not in kept.values():
                kept[i] = own[role]
        named = donor.text_config.get("vocab_size")
        padded = donor.vocabulary or (named if isinstance(named, int) else 0)
        size = max(theirs.tokens.size, padded)
        if size == rows and theirs.tokens.ids == mine.tokens.ids:
            raise CheckpointError(
                f"{model.reference!r} and {donor.reference!r} have the same tokens with the same "
                "ids, so there is nothing to transplant; merge them as they are."
            )
        texts = {
            **{i: text for text, i in theirs.ordinary.items()},
            **{i: text.encode() for text, i in theirs.added.items()},
        }
        missing = {i: text for i, text in sorted(texts.items()) if i not in kept}
        return cls(mine, theirs, size, dict(sorted(kept.items())), missing)

    def by_pieces(self) -> Combination:
        """Return the sums whose other rows are averages of the pieces of the token's text."""
        pieces = self.model.pieces(self.missing.values())
        rows = [[row for row in found if row < self.model.tokens.rows] for found in pieces]
        weights = [[1 / len(found) for _ in found] for found in rows]
        return self._combination(list(self.missing), rows, weights)

    def by_atoms(self, matrix: NDArray[np.float32], count: int) -> Combination:
        """Return the sums that orthogonal matching pursuit finds in a matrix of the donor.

        Args:
            matrix: embeddings or head, a row for each id (a token beyond them is never used).
            count: terms of each sum; see `check_atoms`.
        """
        shared = [i for i in self.kept if i < len(matrix)]
        ids = [i for i in self.missing if i < len(matrix)]
        chosen, found = pursue(matrix[ids], matrix[shared], count)
        rows = np.array([self.kept[i] for i in shared])
        return self._combination(ids, rows[chosen], found)

    def check_atoms(self, donor: Checkpoint, count: int) -> None:
        """Check that a donor has rows, and enough of them and of numbers in each, for a count.

        Raises:
            CheckpointError: it has not.
        """
        name = donor.embedding
        if name is None:
            raise CheckpointError(
                f"{donor.reference!r} has no embeddings, which omp reads; give a causal language "
                "model, or set `--by subtokens`."
            )
        rows, width = donor.tensors[name].shape
        shared = sum(i < rows for i in self.kept)
        most = min(width, shared)
        if type(count) is not int or not 1 <= count <= most:
            raise CheckpointError(
                f"--atoms is {shown(count)}; it must be a whole number from 1 to {most}, since "
                f"{shared} tokens are in both vocabularies and a row of {donor.reference!r} has "
                f"{width} numbers; set it, or `--by subtokens`."
            )

    def _combination(
        self, ids: Sequence[int], rows: Iterable[Any], weights: Iterable[Any]
    ) -> Combination:
        from scipy.sparse import csr_matrix

        rows = list(rows)
        each = [len(row) for row in rows]
        places = np.concatenate([list(self.kept), np.repeat(ids, each)]).astype(np.int64)
        sources = np.concatenate([list(self.kept.values()), *rows]).astype(np.int64)
        values = np.concatenate([np.ones(len(self.kept)), *weights]).astype(np.float32)
        shape = (self.size, self.model.tokens.rows)
        return Combination(csr_matrix((values, (places, sources)), shape))


class Files(NamedTuple):
    """The files of a transplant beside its weights; see `TokenizerPlan`."""

    texts: Mapping[str, str]
    dropped: tuple[str, ...]
    special_ids: Mapping[str, Any]
    notes: tuple[str, ...]


def files_of(plan: Transplant, model: Checkpoint, donor: Checkpoint) -> Files:
    """Return the files of the donor's tokenizer, and the model's generation config.

    The chat template stays the model's, which was trained with it, if the donor has its special
    tokens. The model goes on to stop where it stopped before, and stops at the donor's eos too.

    Raises:
        CheckpointError: the donor lacks the token that stands for an image.
    """
    new = {row: i for i, row in plan.kept.items()}
    special = special_ids(donor, model, new)
    check_images(special, donor, model)
    generation = json_value(model.generation or "{}", GENERATION, CheckpointError)
    stops = [*_listed(special.get("eos_token_id"))]
    stops += [new[i] for i in _listed(generation.get("eos_token_id")) if i in new]
    stops = list(dict.fromkeys(stops))
    stopping = {"eos_token_id": stops if len(stops) > 1 else stops[0]} if stops else {}
    texts = tokenizer_files(donor, model, {**special, **stopping})
    mine, theirs = template_of(model), template_of(donor)
    used = [text for text in plan.model.added if text in (mine or "")]
    lost = [text for text in used if text not in plan.donor.added]
    dropped, note = set(TOKENIZER_FILES) - texts.keys(), ""
    if mine is not None and mine != theirs:
        if lost:
            note = (
                f"The chat template is that of {donor.reference!r}, whose tokenizer lacks "
                f"{shown(lost[0])}, which the template of {model.reference!r} has."
            )
        else:
            texts |= template_files(mine, donor)
            dropped -= texts.keys()
            note = f"The chat template is still that of {model.reference!r}."
    return Files(texts, (*sorted(dropped), "chat_template.json"), special, (note,) if note else ())


def _listed(ids: Any) -> list[int]:
    return [i for i in (ids if isinstance(ids, list) else [ids]) if isinstance(i, int)]


def _roles(checkpoint: Checkpoint, tokens: Tokens) -> dict[str, int]:
    """Return the ids of special tokens by role (`bos_token`, ...), as the configs give them."""
    found = {}
    config = tokenizer_config(checkpoint)
    for role in ROLES:
        i = tokens.ids.get(content_of(config.get(role)))
        given = checkpoint.text_config.get(f"{role}_id") if i is None else i
        if isinstance(given, int):
            found[role] = given
    return found
