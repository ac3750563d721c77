"""Losses of sentence encoders, as sentence-transformers trains with them, in nats."""

from __future__ import annotations

from torch import Tensor, cat, eye, inf, logsumexp
from torch.nn.functional import cross_entropy


def info_nce(similar: Tensor, right: Tensor, ignored: Tensor) -> Tensor:
    """Return how hard it is to tell right columns from wrong ones (MultipleNegativesRankingLoss).

    A right column is chosen by a softmax among itself and the wrong ones. The loss is the mean over
    the rows with right columns of the mean over these; 0 if there are none.

    Args:
        similar: (rows, columns), similarities.
        right: (rows, columns) bool.
        ignored: (rows, columns) bool, the columns that are neither right nor wrong.
    """
    rows, columns = right.nonzero(as_tuple=True)
    own = eye(right.shape[1], dtype=right.dtype)[columns]
    scores = similar[rows].masked_fill((right | ignored)[rows] & ~own, -inf)
    shares = right.sum(1)[rows] * right.any(1).sum()
    return (cross_entropy(scores, columns, reduction="none") / shares).sum()


def cosent(similar: Tensor, scores: Tensor) -> Tensor:
    """Return how far similarities are from the order of scores of any range (CoSENTLoss).

    Args:
        similar: (pairs), the similarities of pairs of texts.
        scores: (pairs), how similar they shall be.
    """
    differences = similar[None, :] - similar[:, None]
    wrong = differences[scores[:, None] > scores[None, :]]
    return logsumexp(cat([wrong.new_zeros(1), wrong]), 0)
