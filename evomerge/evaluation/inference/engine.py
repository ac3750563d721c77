"""Scoring with an inference engine: each candidate's weights are loaded into one running engine.

Prompts and metrics are the same as with the hf backend; the generated tokens come from the engine.
Log-likelihoods come from transformers, where they cost less: it reads the context of several
choices only once, and applies the output head only where a target is.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import CandidateError, ConfigError, DeviceError, one_line
from evomerge.evaluation.inference.forward import DocumentRequests, Forward
from evomerge.evaluation.inference.generation_config import unsupported_setting
from evomerge.evaluation.inference.reference import Request
from evomerge.evaluation.inference.vllm import VllmEngine

_TRIED = 64  # tokens of the text with which an engine is tried
_TOLERANCE = 0.25  # mean difference of its log-probabilities; wrong weights make it larger than 1


class EngineForward:
    """Runs models on requests, partly through an engine; has the interface of `Forward`.

    Args:
        scorer: scores continuations with transformers.
        engine: generates texts.
    """

    def __init__(self, scorer: Forward, engine: VllmEngine) -> None:
        self.scorer, self.engine = scorer, engine

    def check(self, model: Any, tasks: Sequence[Sequence[DocumentRequests]]) -> None:
        """Check that all requests can be answered by this backend, and try the engine.

        Raises:
            ConfigError: a task or the model's generation config asks for more than greedy decoding
                or sampling, or the engine cannot run the model, or its log-probabilities are not
                those of transformers.
        """
        requests = [r for task in tasks for document in task for r in document]
        setting = unsupported_setting(model.generation_config)
        for request in requests:
            if request.kind == "generate_until" and request.prompt is None:
                also = "" if setting is None else f", which sets {setting!r},"
                raise ConfigError(
                    f"evaluation.backend is 'vllm', which generates greedily or samples with "
                    f"temperature, top_k, top_p and min_p, but the generation_kwargs of task "
                    f"{request.instance.task_name!r}, or the model's generation_config.json{also} "
                    "ask for more; remove it there, or use the backend 'hf'."
                )
        text = next(_texts(requests), [0, 0])[:_TRIED]
        try:
            # An engine may start with a model that its kernels do not support. It says so only when
            # it runs the model for the first time.
            self.engine.load(checkpoint_weights(model))
            (found,) = self.engine.token_logprobs([text])
        except (DeviceError, CandidateError) as error:
            reason = one_line(error.__cause__ or error).rstrip(".")
            raise ConfigError(
                f"evaluation.backend is 'vllm', but vLLM cannot run this model ({reason}); use the "
                "backend 'hf'."
            ) from error
        difference = _mean_difference(model, text, found)
        if not difference <= _TOLERANCE:
            raise ConfigError(
                f"evaluation.backend is 'vllm', but vLLM runs this model in a different way: its "
                f"log-probabilities differ from those of transformers by {difference:.2g} on "
                f"average; use the backend 'hf'."
            )
        self.scorer.check(model, [_scored(task) for task in tasks])

    def __call__(self, model: Any, key: Hashable, documents: Sequence[DocumentRequests]) -> None:
        """Store the answers of a model to all requests in them; see `Forward`.

        Raises:
            CandidateError: a log-likelihood is NaN, or the model is not of the engine's
                architecture, or a single row does not fit into memory.
            DeviceError: the engine failed and cannot be used any more.
        """
        if scored := _scored(documents):
            self.scorer(model, key, scored)
        prompted = [r for document in documents for r in document if r.prompt is not None]
        if prompted:
            self.engine.load(checkpoint_weights(model))
            prompts = [prompt for request in prompted for prompt in request.prompts]
            generated = iter(self.engine.generate(prompts))
            for request in prompted:
                self.scorer.reference.answer(request, [next(generated) for _ in request.prompts])


def _scored(documents: Sequence[DocumentRequests]) -> list[list[Request]]:
    """Return the requests whose continuations are scored, of each document that has some."""
    scored = [[r for r in document if r.kind != "generate_until"] for document in documents]
    return [requests for requests in scored if requests]


def _texts(requests: Iterable[Request]) -> Iterator[list[int]]:
    """Yield the tokens of requests that have at least two of them."""
    for request in requests:
        for item in (*request.continuations, request.prompt):
            if item is not None and len(item.tokens) > 1:
                yield list(item.tokens)


def _mean_difference(model: Any, text: Sequence[int], logprobs: Sequence[float]) -> float:
    """Return the mean difference to transformers, of all tokens of a text but the first."""
    tokens = torch.tensor([text], device=model.device)
    with torch.inference_mode():
        logits = model(input_ids=tokens, use_cache=False).logits[0, :-1].float()
    own = logits.log_softmax(-1).gather(-1, tokens[0, 1:, None])[:, 0]
    return float((own - torch.tensor(logprobs, device=own.device)).abs().mean())
