"""What the loss of one document is computed of: what a model says, and what it shall say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from evomerge.evaluation.inference.rows import Continuation

KEPT = 64
"""Tokens of a teacher's distribution that are kept at a position; the others count as one."""


@dataclass(frozen=True)
class Said:
    """What a model says to the continuations of a document.

    Attributes:
        scores: (positions, vocabulary) float32, log-probabilities at all positions of the batch.
        positions: for each continuation, the rows of `scores` that predict its targets.
    """

    scores: Tensor
    positions: Sequence[Tensor]

    @property
    def rows(self) -> Tensor:
        """The log-probabilities at all targets, (targets, vocabulary)."""
        return self.scores[torch.cat(list(self.positions))]

    def sums(self, continuations: Sequence[Continuation]) -> Tensor:
        """Return the log-likelihood of each continuation."""
        return torch.stack(
            [
                self.scores[rows, rows.new_tensor(continuation.targets)].sum()
                for rows, continuation in zip(self.positions, continuations, strict=True)
            ]
        )


@dataclass(frozen=True)
class Reference:
    """What the loss of one document is computed of.

    Attributes:
        continuations: the answer after its prompt, or each choice; for `acc_mutual_info` then each
            choice without a prompt.
        lengths: for each choice, the number by which its log-likelihood is divided; empty if there
            are no choices.
        right: the places of the choices of which one shall be taken.
        likely_choices: the probability that a teacher gives each choice; empty: there is none.
        tokens: (targets, kept) int64, the tokens that a teacher finds most likely at each target of
            the answer; None: the answer's own tokens are wanted.
        likely: (targets, kept + 1) float32, their log-probabilities, and that of all other tokens.
    """

    continuations: tuple[Continuation, ...]
    lengths: tuple[float, ...] = ()
    right: tuple[int, ...] = ()
    likely_choices: tuple[float, ...] = ()
    tokens: Tensor | None = None
    likely: Tensor | None = None

    def loss(self, said: Said) -> Tensor:
        """Return the loss of a model that says this."""
        if self.tokens is not None:
            assert self.likely is not None
            found = _kept(said.rows, self.tokens)
            return (self.likely.exp() * (self.likely - found)).sum()
        if not self.lengths:
            return -said.sums(self.continuations).sum()
        found = self._choices(said)
        if not self.likely_choices:
            return -found[list(self.right)].logsumexp(0)
        likely = found.new_tensor(self.likely_choices)
        return (torch.xlogy(likely, likely) - likely * found).sum()

    def as_said(self, said: Said) -> Reference:
        """Return the reference with the distribution of a model, its teacher."""
        if self.lengths:
            return replace(self, likely_choices=tuple(self._choices(said).exp().tolist()))
        tokens = said.rows.topk(min(KEPT, said.rows.shape[-1] - 1)).indices
        return replace(self, tokens=tokens, likely=_kept(said.rows, tokens))

    def _choices(self, said: Said) -> Tensor:
        """Return the log-probabilities of the choices, as the metric compares them."""
        sums, count = said.sums(self.continuations), len(self.lengths)
        if len(sums) > count:
            sums = sums[:count] - sums[count:]
        return torch.log_softmax(sums / sums.new_tensor(self.lengths), 0)


def _kept(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, and that of all others together."""
    kept = scores.gather(-1, tokens)
    others = (1 - kept.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([kept, others], -1)
