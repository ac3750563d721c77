"""Texts and log-likelihoods for code of users, as fast as for lm-eval's tasks.

An objective function gets a model with two more ways to be used: `model.generate(texts, ...)` takes
a list of texts, besides what transformers takes, and `model.loglikelihood(prompts, answers)`.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from evomerge.evaluation.inference.forward import Forward
from evomerge.evaluation.inference.reference import ReferenceLM, Request

_TRIED = 4  # documents with which the ways of running are compared


class Answering:
    """Answers prompts with models like one, in batches, as lm-eval's own class of models does.

    Args:
        model: a causal language model.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self._reference = ReferenceLM(model, tokenizer)
        self._forward = Forward(model, tokenizer, self._reference, "auto")
        self._checked = set[str]()

    def generate(
        self, model: Any, prompts: Sequence[str], max_new_tokens: int, stop: Sequence[str] = ()
    ) -> list[str]:
        """Return the likeliest continuation of each prompt, up to the end token or a stop text.

        Raises:
            CandidateError: the logits are not numbers, or one prompt does not fit into memory.
            ConfigError: the model cannot read as many tokens.
        """
        options = {"until": list(stop), "max_gen_toks": max_new_tokens, "do_sample": False}
        requests = [self._request("generate_until", prompt, options) for prompt in prompts]
        self._answer(model, "generate", requests)
        return [str(request.instance.resps[0]) for request in requests]

    def loglikelihood(
        self, model: Any, prompts: Sequence[str], answers: Sequence[str]
    ) -> list[float]:
        """Return the log-likelihood of each answer after its prompt, in nats, in the model's dtype.

        Raises:
            ValueError: there are not as many answers as prompts.
            CandidateError: a log-likelihood is not a number.
        """
        pairs = [*zip(prompts, answers, strict=True)]
        requests = [self._request("loglikelihood", *pair) for pair in pairs]
        self._answer(model, "loglikelihood", requests)
        return [float(request.instance.resps[0][0]) for request in requests]

    def _request(self, kind: str, *arguments: Any) -> Request:
        instance = SimpleNamespace(
            request_type=kind, args=arguments, task_name="model.generate", repeats=1, resps=[],
            idx=0, doc={}, metadata=("", 0, 1), arguments=arguments,
        )  # fmt: skip
        return self._reference.request(instance)

    def _answer(self, model: Any, kind: str, requests: Sequence[Request]) -> None:
        documents = [[request] for request in requests]
        if kind not in self._checked and documents:
            self._forward.check(model, [documents[:_TRIED]])
            self._checked.add(kind)
        self._forward(model, object(), documents)  # plans hold requests, which are new each time


@contextmanager
def answering(model: Any, make: Callable[[], Answering]) -> Iterator[None]:
    """Let a model generate from texts and score answers until the block ends.

    `make` is called when the model is asked first: most code does not ask it. The model has a
    class of its own meanwhile, so that copies of it answer as themselves.
    """
    kind: Any = type(model)

    class Answers(kind):  # type: ignore[misc]
        def generate(self, inputs: Any = None, *arguments: Any, **options: Any) -> Any:
            """Continue texts; anything else is transformers'."""
            if isinstance(inputs, (list, tuple)) and all(isinstance(one, str) for one in inputs):
                return make().generate(self, inputs, *arguments, **options)
            return super().generate(inputs, *arguments, **options)

        def loglikelihood(self, prompts: Sequence[str], answers: Sequence[str]) -> list[float]:
            """Return the log-likelihood of each answer after its prompt, in nats."""
            return make().loglikelihood(self, prompts, answers)

    Answers.__name__, Answers.__qualname__ = kind.__name__, kind.__qualname__
    Answers.__module__ = kind.__module__
    model.__class__ = Answers
    try:
        yield
    finally:
        model.__class__ = kind
