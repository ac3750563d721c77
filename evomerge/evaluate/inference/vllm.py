"""Scoring in a vLLM engine: each candidate's weights go into the running engine.

Weights enter by vLLM's own `collective_rpc("reload_weights", kwargs={"weights_iterator": ...})`,
which takes a checkpoint's names and shapes (vLLM's documentation, "Layerwise reloading"), in this
process, so that no disk and no second copy is needed; the prefix cache is emptied each time, for it
holds the last candidate's keys and values. Prompts and metrics are those of the hf backend, the
numbers are vLLM's kernels'.

Relied on, of vLLM 0.16 to 0.33: `LLM(model, load_format="dummy", ...)`, `.collective_rpc`,
`.reset_prefix_cache`, `.generate` with `prompt_token_ids`, `.model_config.max_model_len`;
`SamplingParams`; of an output `prompt_logprobs` and `outputs[0].token_ids`. Nothing private.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeAlias

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluate.inference.generation import Prompt, end_tokens
from evomerge.evaluate.inference.likelihood import Answer
from evomerge.evaluate.inference.reference import ReferenceLM
from evomerge.evaluate.inference.request import Request
from evomerge.evaluate.inference.rows import Continuation

Weights: TypeAlias = Iterator[tuple[str, Any]]

_SHARE = 0.6  # of the GPU's memory for the engine; the resident model needs its own
_SINCE = (0, 16)  # the first vLLM whose `reload_weights` takes weights


def check_vllm() -> None:
    """Refuse the backend where it cannot run.

    Raises:
        ConfigError: vLLM is not installed, or is too old.
    """
    how = (
        "install it with `pip install 'evomerge[vllm]'` on a machine with a GPU, or use the "
        "backend 'hf'."
    )
    try:
        found = version("vllm")
    except PackageNotFoundError:
        raise ConfigError(
            f"evaluation.backend is 'vllm', but vLLM is not installed; {how}"
        ) from None
    numbers = tuple(int(part) for part in found.split(".")[:2] if part.isdigit())
    if numbers and numbers < _SINCE:
        raise ConfigError(
            f"evaluation.backend is 'vllm', but vLLM {found} takes no weights from memory, which "
            f"{'.'.join(map(str, _SINCE))} and newer do; {how}"
        )


class Engine(Protocol):
    """What is asked of a serving engine.

    Attributes:
        longest: most tokens of a text whose predictions can be had.
    """

    longest: int

    def load(self, weights: Weights) -> None:
        """Replace the model's weights; names and shapes are those of the checkpoint."""
        ...

    def predictions(self, texts: Sequence[Sequence[int]]) -> list[list[tuple[float, bool]]]:
        """Return of every token but the first: log-probability, whether it is the likeliest."""
        ...

    def continuations(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the new tokens of each prompt, greedily, up to a stop sequence or the limit."""
        ...


class VllmEngine:
    """A vLLM engine in this process, started without weights.

    Args:
        model: a transformers model; its configuration shapes the engine.
        tokenizer: its tokenizer.

    Raises:
        ConfigError: vLLM is not installed, or is too old.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        check_vllm()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are handed over
        from vllm import LLM

        self._ends = sorted(end_tokens(model))
        with tempfile.TemporaryDirectory() as folder:
            model.config.save_pretrained(folder)
            model.generation_config.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            self._llm = LLM(
                model=folder,
                load_format="dummy",
                dtype=str(model.dtype).removeprefix("torch."),
                gpu_memory_utilization=_SHARE,
                max_logprobs=1,
                seed=0,
            )
        # vLLM wants room for one token more, which it generates and nobody reads.
        self.longest = int(self._llm.model_config.max_model_len) - 1

    def load(self, weights: Weights) -> None:
        """Replace the model's weights and forget what was cached with the old ones."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache, which is the last model's.")

    def predictions(self, texts: Sequence[Sequence[int]]) -> list[list[tuple[float, bool]]]:
        """Return of every token but the first: log-probability, whether it is the likeliest."""
        from vllm import SamplingParams

        options = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        prompts = [{"prompt_token_ids": list(text)} for text in texts]
        outputs = self._llm.generate(prompts, options, use_tqdm=False)
        return [
            [
                _prediction(token, known)
                for token, known in zip(text[1:], output.prompt_logprobs[1:], strict=True)
            ]
            for text, output in zip(texts, outputs, strict=True)
        ]

    def continuations(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the new tokens of each prompt, greedily, up to a stop sequence or the limit."""
        from vllm import SamplingParams

        options = [
            SamplingParams(
                temperature=0.0,
                max_tokens=prompt.limit,
                stop=list(prompt.stops),
                stop_token_ids=self._ends,
                skip_special_tokens=False,  # a stop sequence may be a special token
            )
            for prompt in prompts
        ]
        texts = [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts]
        outputs = self._llm.generate(texts, options, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]


def _prediction(token: int, known: Any) -> tuple[float, bool]:
    """Return a token's log-probability, and whether none is likelier.

    Args:
        known: token -> its entry, of the token itself and the likeliest one. (An entry's rank
            counts tokens that are as likely, so that it is 2 or more at a tie.)
    """
    own = float(known[token].logprob)
    return own, own >= max(float(entry.logprob) for entry in known.values())


class Served:
    """Answers requests through an engine; stands where `Forward` stands.

    Args:
        reference: lm-eval's tokenisation, and what it does after generation.
        engine: where models run.
    """

    def __init__(self, reference: ReferenceLM, engine: Engine) -> None:
        self.reference, self.engine = reference, engine
        # A continuation's last target is read here too: its input must be one token shorter.
        reference.max_length = min(reference.max_length, engine.longest - 1)

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
        self.engine.load(checkpoint_weights(model))
        requests = [request for sheet in documents for request in sheet]
        continuations = [
            continuation for request in requests for continuation in request.continuations
        ]
        answers = iter(self._score(continuations))
        for request in requests:
            parts = [next(answers) for _ in request.continuations]
            if request.kind == "loglikelihood_rolling":
                request.answer(sum(total for total, _ in parts))
            elif request.kind == "loglikelihood":
                request.answer(parts[0])
        prompted = [request for request in requests if request.prompt is not None]
        prompts = [request.prompt for request in prompted if request.prompt is not None]
        said = self.engine.continuations(prompts) if prompts else []
        for request, prompt, tokens in zip(prompted, prompts, said, strict=True):
            request.answer(self.reference.text(tokens, prompt.stops))

    def _score(self, continuations: Sequence[Continuation]) -> list[Answer]:
        texts = [(*continuation.tokens, continuation.targets[-1]) for continuation in continuations]
        different = list(dict.fromkeys(texts))
        found = self.engine.predictions(different) if different else []
        known = dict(zip(different, found, strict=True))
        answers = []
        for text, continuation in zip(texts, continuations, strict=True):
            scored = known[text][-len(continuation.targets) :]
            total = sum(logprob for logprob, _ in scored)
            if total != total:
                raise CandidateError("The model's log-likelihoods are not numbers (NaN).")
            answers.append((total, all(likeliest for _, likeliest in scored)))
        return answers


def checkpoint_weights(model: Any) -> Weights:
    """Yield a model's weights by the names and in the shapes that its checkpoint has.

    transformers 5 stacks, splits and renames tensors as it loads them (experts, for example), and
    older versions leave them as they are.
    """
    state = model.state_dict()
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return iter(state.items())
    return iter(revert_weight_conversion(model, state).items())
