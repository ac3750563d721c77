"""One request of a task, in tokens."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from evomerge.evaluate.inference.generation import Prompt
from evomerge.evaluate.inference.rows import Continuation


@dataclass(frozen=True)
class Request:
    """One of lm-eval's requests, ready for the model.

    Attributes:
        instance: lm-eval's request; the answer goes into its `resps`.
        continuations: what is scored: one continuation, or the windows of a text; empty for a
            request to generate.
        prompt: what is continued; None for a request to score, and where lm-eval must generate.
    """

    instance: Any
    continuations: tuple[Continuation, ...] = ()
    prompt: Prompt | None = None

    @property
    def kind(self) -> str:
        """`loglikelihood`, `loglikelihood_rolling` or `generate_until`."""
        return str(self.instance.request_type)

    def answer(self, answer: Any) -> None:
        """Hand the model's answer to lm-eval, as often as the task repeats the request."""
        self.instance.resps = [answer] * self.instance.repeats
