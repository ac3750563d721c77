"""What lm-eval asks of a model, with its tokens, and where the answer goes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from evomerge.errors import CandidateError
from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.rows import Continuation

if TYPE_CHECKING:
    from evomerge.evaluation.inference.likelihood import LogLikelihood

Instance: TypeAlias = Any


@dataclass(frozen=True)
class Request:
    """An lm-eval `Instance`, whose `resps` the answer goes into, and its tokens.

    Attributes:
        continuations: what is scored: one for `loglikelihood`, one for each window of the text for
            `loglikelihood_rolling`, none for `generate_until` and encoder-decoders.
        prompt: what is continued; None where lm-eval itself answers, as with beams or penalties.
        seeds: the seeds of the texts that are sampled in answer, one for each repeat of the task.
        generated: number of tokens of each text that was generated, its end token included.
    """

    instance: Instance
    continuations: tuple[Continuation, ...] = ()
    prompt: Prompt | None = None
    seeds: tuple[int, ...] = ()
    generated: list[int] = field(default_factory=list)

    @property
    def kind(self) -> str:
        """`loglikelihood`, `loglikelihood_rolling` or `generate_until`."""
        return str(self.instance.request_type)

    @property
    def prompts(self) -> list[Prompt]:
        """What is continued: the prompt once, or once for each text that is sampled."""
        if self.prompt is None:
            return []
        return [replace(self.prompt, seed=seed) for seed in self.seeds] or [self.prompt]

    def answer_texts(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Store a text for each repeat of the task, or one for all, and their numbers of tokens."""
        self.instance.resps = [*texts] * (self.instance.repeats // len(texts))
        self.generated[:] = tokens

    def answer_scored(self, parts: Sequence[LogLikelihood]) -> None:
        """Store the log-likelihoods of the continuations as the answer, once for each repeat.

        Raises:
            CandidateError: one is NaN.
        """
        is_rolling = self.kind == "loglikelihood_rolling"
        if any(math.isnan(total) for total, _ in parts):
            raise CandidateError("The model's log-likelihoods are not numbers (NaN).")
        answer = sum(total for total, _ in parts) if is_rolling else parts[0]
        self.instance.resps = [answer] * self.instance.repeats
