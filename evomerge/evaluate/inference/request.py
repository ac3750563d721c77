"""One lm-eval request, tokenised."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evomerge.evaluate.inference.generation import Prompt
from evomerge.evaluate.inference.rows import Continuation


@dataclass(frozen=True)
class Request:
    """An lm-eval `Instance` and its tokens.

    Attributes:
        instance: the `Instance`; the model's answer goes into its `resps`.
        continuations: the continuations to score: one for `loglikelihood`, one for each window of
            the text for `loglikelihood_rolling`, none for `generate_until`.
        prompt: the prompt to continue. None for requests that are scored, and for generation that
            is not plain greedy decoding, which lm-eval does itself.
    """

    instance: Any
    continuations: tuple[Continuation, ...] = ()
    prompt: Prompt | None = None

    @property
    def kind(self) -> str:
        """`loglikelihood`, `loglikelihood_rolling` or `generate_until`."""
        return str(self.instance.request_type)

    def answer(self, answer: Any) -> None:
        """Store the model's answer in the instance, once for each repeat of the task."""
        self.instance.resps = [answer] * self.instance.repeats
