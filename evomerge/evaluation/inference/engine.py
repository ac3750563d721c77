"""Scoring with an inference engine: each candidate's weights are loaded into one running engine.

Prompts and metrics are the same as with the hf backend; the generated tokens come from the engine.
Log-likelihoods come from transformers, where they cost less: it reads the context of several
choices only once, and applies the output head only where a target is.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import CandidateError, ConfigError, DeviceError, one_line
from evomerge.evaluation.inference.forward import DocumentRequests, Forward
from evomerge.evaluation.inference.generation import Prompt, is_greedy_up_to_rounding
from evomerge.evaluation.inference.generation_config import unsupported_setting
from evomerge.evaluation.inference.requests import Request
from evomerge.evaluation.inference.vllm import VllmEngine

_TRIED, _NEW = 4, 16  # prompts with which an engine is tried, and new tokens of each


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
                or sampling, or the engine cannot run the model, or its tokens are not the
                likeliest ones of transformers.
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
        prompts = [r.prompt for r in requests if r.prompt is not None][:_TRIED]
        self._try([replace(p, sampling=None, limit=min(p.limit, _NEW)) for p in prompts], model)
        self.scorer.check(model, [_scored(task) for task in tasks])

    def _try(self, prompts: Sequence[Prompt], model: Any) -> None:
        """Let the engine continue prompts; an engine without a prompt is not used."""
        if not prompts:
            return
        try:
            # An engine may start with a model that its kernels do not support. It says so only when
            # it runs the model for the first time.
            self.engine.load(checkpoint_weights(model))
            texts = self.engine.generate(prompts)
        except (DeviceError, CandidateError) as error:
            reason = one_line(error.__cause__ or error).rstrip(".")
            raise ConfigError(
                f"evaluation.backend is 'vllm', but vLLM cannot run this model ({reason}); use the "
                "backend 'hf'."
            ) from error
        right = sum(map(partial(is_greedy_up_to_rounding, model), prompts, texts))
        if 2 * right < len(texts):  # in bfloat16 a few may differ by more than rounding should
            raise ConfigError(
                "evaluation.backend is 'vllm', but vLLM runs this model in a different way: its "
                "tokens are not those that transformers finds likeliest; use the backend 'hf'."
            )

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
