"""Scoring with an inference engine: each candidate's weights are loaded into one running engine.

Prompts and metrics are the same as with the hf backend; the generated tokens come from the engine.
Log-likelihoods come from transformers wherever the merged model is on the engine's device, since
there they cost less: transformers reads the context of several choices only once, and applies the
output head only where a target is (benchmarks/backends.py has figures).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import torch

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import CandidateError, ConfigError, DeviceError, one_line
from evomerge.evaluation.inference.forward import DocumentRequests, Forward
from evomerge.evaluation.inference.generation_config import unsupported_setting
from evomerge.evaluation.inference.likelihood import LogLikelihood
from evomerge.evaluation.inference.reference import ReferenceLM, Request
from evomerge.evaluation.inference.rows import Continuation
from evomerge.evaluation.inference.vllm import VllmEngine

_TRIED = 64  # tokens of the text with which an engine is tried
_TOLERANCE = 0.25  # mean difference of its log-probabilities; wrong weights make it larger than 1


class EngineForward:
    """Runs models on requests, partly through an engine; has the interface of `Forward`.

    Args:
        reference: lm-eval's model class, which tokenises and truncates texts.
        engine: generates texts, and scores continuations if there is no `scorer`.
        scorer: scores continuations with transformers; None: the engine does.
    """

    def __init__(
        self, reference: ReferenceLM, engine: VllmEngine, scorer: Forward | None = None
    ) -> None:
        self.reference, self.engine, self.scorer = reference, engine, scorer
        if scorer is None:
            # An engine also reads the last target of a continuation, so the input is one token
            # shorter.
            reference.max_length = min(reference.max_length, engine.max_length - 1)

    def check(self, model: Any, tasks: Sequence[Sequence[DocumentRequests]]) -> None:
        """Check that all requests can be answered by this backend, and try the engine.

        Raises:
            ConfigError: a task or the model's generation config asks for more than greedy decoding
                or sampling, or the engine cannot run the model, or its log-probabilities are not
                those of transformers.
        """
        requests = [r for task in tasks for document in task for r in document]
        prompted = [request for request in requests if request.kind == "generate_until"]
        setting = unsupported_setting(model.generation_config)
        for request in prompted:
            if request.prompt is None:
                also = "" if setting is None else f", which sets {setting!r},"
                raise ConfigError(
                    f"evaluation.backend is 'vllm', which generates greedily or samples with "
                    f"temperature, top_k, top_p and min_p, but the generation_kwargs of task "
                    f"{request.instance.task_name!r}, or the model's generation_config.json{also} "
                    "ask for more; remove it there, or use the backend 'hf'."
                )
        text = next(iter(_texts(requests)), [0, 0])[:_TRIED]
        try:
            # An engine may start with a model that its kernels do not support. It says so only when
            # it runs the model for the first time.
            self.engine.load(checkpoint_weights(model))
            (found,) = self.engine.token_logprobs([text], [len(text) - 1])
        except (DeviceError, CandidateError) as error:
            reason = one_line(error.__cause__ or error).rstrip(".")
            raise ConfigError(
                f"evaluation.backend is 'vllm', but vLLM cannot run this model ({reason}); use the "
                "backend 'hf'."
            ) from error
        difference = _mean_difference(model, text, [logprob for logprob, _ in found])
        if not difference <= _TOLERANCE:
            raise ConfigError(
                f"evaluation.backend is 'vllm', but vLLM runs this model in a different way: its "
                f"log-probabilities differ from those of transformers by {difference:.2g} on "
                f"average; use the backend 'hf'."
            )
        if self.scorer is not None:
            self.scorer.check(model, [_scored(task) for task in tasks])

    def __call__(self, model: Any, key: Hashable, documents: Sequence[DocumentRequests]) -> None:
        """Store the answers of a model to all requests in them; see `Forward`.

        Raises:
            CandidateError: a log-likelihood is NaN, or the model is not of the engine's
                architecture, or a single row does not fit into memory.
            DeviceError: the engine failed and cannot be used any more.
        """
        scored = _scored(documents)
        prompted = [r for document in documents for r in document if r.prompt is not None]
        if scored and self.scorer is not None:
            self.scorer(model, key, scored)
        if prompted or (scored and self.scorer is None):
            self.engine.load(checkpoint_weights(model))
        if scored and self.scorer is None:
            requests = [request for document in scored for request in document]
            scores = iter(self._score([c for request in requests for c in request.continuations]))
            for request in requests:
                request.answer_scored([next(scores) for _ in request.continuations])
        prompts = [prompt for request in prompted for prompt in request.prompts]
        generated = iter(self.engine.generate(prompts) if prompts else [])
        for request in prompted:
            self.reference.answer(request, [next(generated) for _ in request.prompts])

    def _score(self, continuations: Sequence[Continuation]) -> list[LogLikelihood]:
        """Score continuations with the engine, each different text once."""
        texts = [(*continuation.tokens, continuation.targets[-1]) for continuation in continuations]
        counts: dict[tuple[int, ...], int] = {}  # of each different text
        for text, continuation in zip(texts, continuations, strict=True):
            counts[text] = max(counts.get(text, 0), len(continuation.targets))
        found = self.engine.token_logprobs(list(counts), list(counts.values())) if counts else []
        known = dict(zip(counts, found, strict=True))
        scores = []
        for text, continuation in zip(texts, continuations, strict=True):
            scored = known[text][-len(continuation.targets) :]
            total = sum(logprob for logprob, _ in scored)
            if total != total:
                raise CandidateError("The model's log-likelihoods are not numbers (NaN).")
            scores.append((total, all(likeliest for _, likeliest in scored)))
        return scores


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
