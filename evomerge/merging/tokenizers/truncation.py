"""Cutting the rows of embeddings and head to those that all parents have.

mergekit's `--unsafe-truncate-embeddings`. The rows are merged by id, so an id must be the same
token in all parents.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint

if TYPE_CHECKING:
    from evomerge.merging.tokenizers.rows import MatchedRows

TRUNCATE = "truncate_embeddings"
"""The option of a recipe."""


def truncate(parents: Sequence[Checkpoint]) -> tuple[MatchedRows, tuple[str, ...]]:
    """Return the rows that all parents have, and a warning if rows are cut off.

    Args:
        parents: the parents.

    Raises:
        CheckpointError: a parent has no embeddings.
    """
    from evomerge.merging.tokenizers.rows import MatchedRows

    sizes = {parent.reference: _rows(parent) for parent in parents}
    least, most = min(sizes.values()), max(sizes.values())
    rows = MatchedRows(
        size=least,
        tokens=least,
        index=dict.fromkeys(sizes, tuple(range(least))),
        filling={},
        keeper=None,
        special_ids={},
    )
    if least == most:
        return rows, ()
    return rows, (
        f"Embeddings and head of up to {most} rows are cut to {least}; the merged model has no "
        f"token with an id of {least} or more, even if its tokenizer has one.",
    )


def _rows(parent: Checkpoint) -> int:
    if parent.embedding is None:
        raise CheckpointError(
            f"{parent.reference!r} has no embeddings that could be cut; leave out "
            "--unsafe-truncate-embeddings."
        )
    return parent.tensors[parent.embedding].shape[0]
