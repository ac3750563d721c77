"""One lm-eval request, tokenised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.rows import Continuation

if TYPE_CHECKING:
    from evomerge.evaluation.inference.likelihood import LogLikelihood


@dataclass(frozen=True)
class Request:
    """An lm-eval `Instance` and its tokens.

    Attributes:
        instance: the `Instance`; the model's answer goes into its `resps`.
        continuations: the continuations to score: one for `loglikelihood`, one for each window of
            the text for `loglikelihood_rolling`, none for `generate_until`.
        prompt: the prompt to continue. None for requests that are scored, and for generation with
            more than greedy decoding or plain sampling (beams, penalties), which lm-eval does.
        seeds: the seeds of the texts that are sampled in answer, one for each repeat of the task;
            empty if the answer is not sampled.
        generated: number of tokens of each text that the model has generated in answer, the one
            that ended it included.
    """

    instance: Any
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

    def answer(self, answer: Any) -> None:
        """Store the model's answer in the instance, once for each repeat of the task."""
        self.instance.resps = [answer] * self.instance.repeats

    def answer_texts(self, texts: Sequence[str], tokens: Sequence[int]) -> None:
        """Store generated texts as the answers, and how many tokens were generated for each.

        Args:
            texts: a text for each repeat of the task, or one that answers all of them.
            tokens: the number of tokens of each text.
        """
        self.instance.resps = [*texts] * (self.instance.repeats // len(texts))
        self.generated[:] = tokens

    def answer_scored(self, parts: Sequence[LogLikelihood]) -> None:
        """Store the log-likelihoods of the continuations as the answer to the instance."""
        if self.kind == "loglikelihood_rolling":
            self.answer(rolling_answer(self.instance, sum(total for total, _ in parts)))
        else:
            self.answer(parts[0])


def rolling_answer(instance: Any, total: float) -> Any:
    """Return a text's log-likelihood in the form that lm-eval expects.

    Args:
        instance: the `loglikelihood_rolling` instance. Its arguments are (text,) before lm-eval
            0.5, and ("", text) since, as those of `loglikelihood`, and so is the answer.
        total: the log-likelihood, in nats.
    """
    return total if len(instance.args) == 1 else (total, False)
