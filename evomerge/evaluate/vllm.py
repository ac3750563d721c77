"""Scoring in a vLLM engine: each candidate's weights go into the running engine.

Weights enter by vLLM's own `collective_rpc("reload_weights")`, in this process, so that no disk and
no second copy is needed; the prefix cache is emptied each time, for it holds the last candidate's
keys and values. Prompts and metrics are those of the hf backend, the numbers are vLLM's kernels'.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluate.generation import Prompt
from evomerge.evaluate.harness import Stock
from evomerge.evaluate.likelihood import Answer, Question
from evomerge.evaluate.request import Request

Weights: TypeAlias = Iterator[tuple[str, Any]]

_SHARE = 0.6  # of the GPU's memory for the engine; the resident model needs its own


class Engine(Protocol):
    """What is asked of a serving engine."""

    longest: int

    def load(self, weights: Weights) -> None:
        """Replace the model's weights; names and shapes are those of the checkpoint."""
        ...

    def predictions(self, texts: Sequence[Sequence[int]]) -> list[list[tuple[float, bool]]]:
        """Return of every token but the first: log-probability, whether it is the likeliest."""
        ...

    def continuations(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the greedy continuation of each prompt, up to a stop sequence or the limit."""
        ...


class VllmEngine:
    """A vLLM engine in this process, started without weights.

    Args:
        model: a transformers model; its configuration shapes the engine.
        tokenizer: its tokenizer.

    Raises:
        ConfigError: vLLM is not installed.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are handed over
        try:
            from vllm import LLM
        except ImportError as error:
            raise ConfigError(
                "evaluation.backend is 'vllm', but vLLM is not installed; install it with "
                "`pip install 'evomerge[vllm]'` on a machine with a GPU, or use the backend 'hf'."
            ) from error
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            self._llm = LLM(
                model=folder,
                load_format="dummy",
                dtype=str(model.dtype).removeprefix("torch."),
                gpu_memory_utilization=_SHARE,
                max_logprobs=1,
                seed=0,
            )
        self.longest = int(self._llm.llm_engine.model_config.max_model_len) - 1

    def load(self, weights: Weights) -> None:
        """Replace the model's weights and forget what was cached with the old ones."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        self._llm.reset_prefix_cache()

    def predictions(self, texts: Sequence[Sequence[int]]) -> list[list[tuple[float, bool]]]:
        """Return of every token but the first: log-probability, whether it is the likeliest."""
        from vllm import SamplingParams

        options = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        prompts = [{"prompt_token_ids": list(text)} for text in texts]
        outputs = self._llm.generate(prompts, options, use_tqdm=False)
        return [
            [
                (float(known[token].logprob), known[token].rank == 1)
                for token, known in zip(text[1:], output.prompt_logprobs[1:], strict=True)
            ]
            for text, output in zip(texts, outputs, strict=True)
        ]

    def continuations(self, prompts: Sequence[Prompt]) -> list[str]:
        """Return the greedy continuation of each prompt, up to a stop sequence or the limit."""
        from vllm import SamplingParams

        options = [
            SamplingParams(temperature=0.0, max_tokens=p.limit, stop=list(p.stops)) for p in prompts
        ]
        texts = [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts]
        outputs = self._llm.generate(texts, options, use_tqdm=False)
        return [output.outputs[0].text for output in outputs]


class Served:
    """Answers requests through an engine; stands where `Forward` stands.

    Args:
        stock: lm-eval's tokenisation, and what it does after generation.
        engine: where models run.
    """

    def __init__(self, stock: Stock, engine: Engine) -> None:
        self.stock, self.engine = stock, engine

    def check(self, model: Any, tasks: Sequence[Sequence[Sequence[Request]]]) -> None:
        """Refuse requests that this backend cannot answer.

        Raises:
            ConfigError: a task samples its generations.
        """
        for request in (r for task in tasks for sheet in task for r in sheet):
            if request.kind == "generate_until" and request.prompt is None:
                raise ConfigError(
                    f"evaluation.backend is 'vllm', which generates greedily only, but task "
                    f"{request.instance.task_name!r} asks for more; set do_sample: false in its "
                    f"generation_kwargs, or use the backend 'hf'."
                )

    def __call__(self, model: Any, key: Hashable, documents: Sequence[Sequence[Request]]) -> None:
        """Put a model into the engine and answer all requests of the documents.

        Args:
            model: a model of the engine's architecture; its weights are read, it is not run.
            key: of no use here.

        Raises:
            CandidateError: a log-likelihood is not a number.
        """
        self.engine.load(iter(model.state_dict().items()))
        requests = [request for sheet in documents for request in sheet]
        questions = [question for request in requests for question in request.questions]
        answers = iter(self._score(questions))
        for request in requests:
            parts = [next(answers) for _ in request.questions]
            if request.kind == "loglikelihood_rolling":
                request.answer(sum(total for total, _ in parts))
            elif request.kind == "loglikelihood":
                request.answer(parts[0])
        prompted = [request for request in requests if request.prompt is not None]
        prompts = [request.prompt for request in prompted if request.prompt is not None]
        texts = self.engine.continuations(prompts) if prompts else []
        for request, prompt, text in zip(prompted, prompts, texts, strict=True):
            request.answer(self.stock.cut(text, prompt.stops))

    def _score(self, questions: Sequence[Question]) -> list[Answer]:
        texts = [
            (*question.tokens, question.targets[-1])[-self.engine.longest :]
            for question in questions
        ]
        different = list(dict.fromkeys(texts))
        found = self.engine.predictions(different) if different else []
        known = dict(zip(different, found, strict=True))
        answers = []
        for text, question in zip(texts, questions, strict=True):
            scored = known[text][-len(question.targets) :]
            total = sum(logprob for logprob, _ in scored)
            if total != total:
                raise CandidateError("The model's log-likelihoods are not numbers (NaN).")
            answers.append((total, all(likeliest for _, likeliest in scored)))
        return answers
