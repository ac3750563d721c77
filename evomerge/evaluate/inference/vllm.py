"""Scoring with vLLM: each candidate's weights are loaded into one running engine.

The weights are passed by vLLM's own `collective_rpc("reload_weights", kwargs={"weights_iterator":
...})`, which takes the names and shapes of a checkpoint (vLLM's documentation, "Layerwise
reloading"). The engine runs in this process, so neither a file nor a second copy is needed. The
prefix cache is emptied each time, since it holds keys and values of the previous candidate. Prompts
and metrics are the same as with the hf backend; logits and generated tokens come from vLLM.

What this file uses of vLLM, 0.16 to 0.33: `LLM(model, load_format="dummy", ...)`,
`.collective_rpc`, `.reset_prefix_cache`, `.generate` with `prompt_token_ids`,
`.model_config.max_model_len`; `SamplingParams`; of an output `prompt_logprobs` and
`outputs[0].token_ids`. All of it is public.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Hashable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeAlias

from evomerge.errors import CandidateError, ConfigError
from evomerge.evaluate.inference.generation import Prompt, end_tokens
from evomerge.evaluate.inference.likelihood import LogLikelihood
from evomerge.evaluate.inference.reference import ReferenceLM
from evomerge.evaluate.inference.request import Request
from evomerge.evaluate.inference.rows import Continuation

Weights: TypeAlias = Iterator[tuple[str, Any]]
"""Names and tensors of a checkpoint."""

TokenLogprob: TypeAlias = tuple[float, bool]
"""A token's log-probability, and whether no other token is more likely."""

_SHARE = 0.6  # share of the GPU's memory for the engine; the merged model needs memory too
_SINCE = (0, 16)  # the first vLLM whose `reload_weights` takes weights from memory


def check_vllm() -> None:
    """Check that the vLLM backend can be used.

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
            f"evaluation.backend is 'vllm', but vLLM {found} cannot load weights from memory; "
            f"{'.'.join(map(str, _SINCE))} or newer is needed; {how}"
        )


class Engine(Protocol):
    """An inference engine whose weights can be replaced.

    Attributes:
        max_length: maximum number of tokens of a text that `token_logprobs` can score.
    """

    max_length: int

    def load(self, weights: Weights) -> None:
        """Replace the model's weights; names and shapes are those of the checkpoint."""
        ...

    def token_logprobs(self, texts: Sequence[Sequence[int]]) -> list[list[TokenLogprob]]:
        """Return the log-probability of every token but the first, for each text."""
        ...

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the new tokens of each prompt: greedy, up to a stop sequence or the limit."""
        ...


class VllmEngine:
    """A vLLM engine in this process, started with dummy weights.

    Args:
        model: a transformers model; the engine is made for its config and dtype.
        tokenizer: its tokenizer.

    Raises:
        ConfigError: vLLM is not installed, or is too old.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        check_vllm()
        os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # weights are passed in memory
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
        # vLLM has to generate one token, which is not used, so it must have room for it.
        self.max_length = int(self._llm.model_config.max_model_len) - 1

    def load(self, weights: Weights) -> None:
        """Replace the model's weights and empty the prefix cache."""
        self._llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        if not self._llm.reset_prefix_cache():
            raise RuntimeError("vLLM did not empty its prefix cache of the previous weights.")

    def token_logprobs(self, texts: Sequence[Sequence[int]]) -> list[list[TokenLogprob]]:
        """Return the log-probability of every token but the first, for each text."""
        from vllm import SamplingParams

        options = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=1)
        prompts = [{"prompt_token_ids": list(text)} for text in texts]
        outputs = self._llm.generate(prompts, options, use_tqdm=False)
        return [
            [
                _token_logprob(token, entries)
                for token, entries in zip(text[1:], output.prompt_logprobs[1:], strict=True)
            ]
            for text, output in zip(texts, outputs, strict=True)
        ]

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the new tokens of each prompt: greedy, up to a stop sequence or the limit."""
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


def _token_logprob(token: int, entries: Any) -> TokenLogprob:
    """Return a token's log-probability, and whether no other token is more likely.

    Args:
        entries: vLLM's entries by token, for this token and the most likely one. Log-probabilities
            are compared because an entry's rank counts equally likely tokens too: at a tie it is
            2 or more for each.
    """
    own = float(entries[token].logprob)
    return own, own >= max(float(entry.logprob) for entry in entries.values())


class EngineForward:
    """Runs models on requests through an engine; has the interface of `Forward`.

    Args:
        reference: lm-eval's model class, which tokenises and truncates texts.
        engine: the engine that runs the models.
    """

    def __init__(self, reference: ReferenceLM, engine: Engine) -> None:
        self.reference, self.engine = reference, engine
        # An engine also reads the last target of a continuation, so the input is one token shorter.
        reference.max_length = min(reference.max_length, engine.max_length - 1)

    def check(self, model: Any, tasks: Sequence[Sequence[Sequence[Request]]]) -> None:
        """Check that all requests can be answered by this backend.

        Args:
            tasks: for each task, the requests of each document.

        Raises:
            ConfigError: a task does not generate greedily.
        """
        for request in (r for task in tasks for document in task for r in document):
            if request.kind == "generate_until" and request.prompt is None:
                raise ConfigError(
                    f"evaluation.backend is 'vllm', which only generates greedily, but task "
                    f"{request.instance.task_name!r} does not; set do_sample: false in its "
                    f"generation_kwargs, or use the backend 'hf'."
                )

    def __call__(self, model: Any, key: Hashable, documents: Sequence[Sequence[Request]]) -> None:
        """Load a model's weights into the engine and store the answers to all requests in them.

        Args:
            model: a model of the engine's architecture; only its weights are used.
            key: not used by this backend.

        Raises:
            CandidateError: a log-likelihood is NaN.
        """
        self.engine.load(checkpoint_weights(model))
        requests = [request for document in documents for request in document]
        continuations = [
            continuation for request in requests for continuation in request.continuations
        ]
        scores = iter(self._score(continuations))
        for request in requests:
            parts = [next(scores) for _ in request.continuations]
            if request.kind == "loglikelihood_rolling":
                request.answer(sum(total for total, _ in parts))
            elif request.kind == "loglikelihood":
                request.answer(parts[0])
        prompted = [request for request in requests if request.prompt is not None]
        prompts = [request.prompt for request in prompted if request.prompt is not None]
        generated = self.engine.generate(prompts) if prompts else []
        for request, prompt, tokens in zip(prompted, prompts, generated, strict=True):
            request.answer(self.reference.text(tokens, prompt.stops))

    def _score(self, continuations: Sequence[Continuation]) -> list[LogLikelihood]:
        texts = [(*continuation.tokens, continuation.targets[-1]) for continuation in continuations]
        different = list(dict.fromkeys(texts))
        found = self.engine.token_logprobs(different) if different else []
        known = dict(zip(different, found, strict=True))
        scores = []
        for text, continuation in zip(texts, continuations, strict=True):
            scored = known[text][-len(continuation.targets) :]
            total = sum(logprob for logprob, _ in scored)
            if total != total:
                raise CandidateError("The model's log-likelihoods are not numbers (NaN).")
            scores.append((total, all(likeliest for _, likeliest in scored)))
        return scores


def checkpoint_weights(model: Any) -> Weights:
    """Yield a model's weights with the names and shapes of its checkpoint.

    transformers 5 stacks, splits and renames tensors when it loads a checkpoint (experts, for
    example); that is reverted here. Older versions load tensors as they are.
    """
    state = model.state_dict()
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:
        return iter(state.items())
    return iter(revert_weight_conversion(model, state).items())
