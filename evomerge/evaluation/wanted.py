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
        choices: number of choices; 0: there are none, so one loss is that of all metrics.
        divisors: for each metric and continuation, the number by which its log-likelihood is
            divided before a choice is taken: -1 where it is subtracted, infinite where it does not
            count.
        right: the places of the choices of which one shall be taken.
        likely_choices: for each metric, the probability that a teacher gives each choice; empty:
            there is none.
        tokens: (targets, kept) int64, the tokens that a teacher finds most likely at each target of
            the answer; None: the answer's own tokens are wanted.
        likely: (targets, kept + 1) float32, their log-probabilities, and that of all other tokens.
    """

    continuations: tuple[Continuation, ...]
    choices: int = 0
    divisors: tuple[tuple[float, ...], ...] = ()
    right: tuple[int, ...] = ()
    likely_choices: tuple[tuple[float, ...], ...] = ()
    tokens: Tensor | None = None
    likely: Tensor | None = None

    def losses(self, said: Said) -> Tensor:
        """Return the losses of a model that says this, (metrics,); (1,) if there are no choices."""
        if self.tokens is not None:
            assert self.likely is not None
            found = _kept(said.rows, self.tokens)
            return (self.likely.exp() * (self.likely - found)).sum().reshape(1)
        if not self.choices:
            return -said.sums(self.continuations).sum().reshape(1)
        found = self._choices(said)
        if not self.likely_choices:
            return -found[:, list(self.right)].logsumexp(-1)
        likely = found.new_tensor(self.likely_choices)
        return (torch.xlogy(likely, likely) - likely * found).sum(-1)

    def as_said(self, said: Said) -> Reference:
        """Return the reference with the distribution of a model, its teacher."""
        if self.choices:
            likely = self._choices(said).exp().tolist()
            return replace(self, likely_choices=tuple(map(tuple, likely)))
        tokens = said.rows.topk(min(KEPT, said.rows.shape[-1] - 1)).indices
        return replace(self, tokens=tokens, likely=_kept(said.rows, tokens))

    def _choices(self, said: Said) -> Tensor:
        """Return the log-probabilities of choices as metrics compare them, (metrics, choices)."""
        sums = said.sums(self.continuations)
        scores = (sums / sums.new_tensor(self.divisors)).view(len(self.divisors), -1, self.choices)
        return torch.log_softmax(scores.sum(1), -1)


def _kept(scores: Tensor, tokens: Tensor) -> Tensor:
    """Return the log-probabilities of some tokens, and that of all others together."""
    kept = scores.gather(-1, tokens)
    others = (1 - kept.exp().sum(-1, keepdim=True)).clamp_min(1e-6).log()
    return torch.cat([kept, others], -1)
