"""The vLLM engine: weights are replaced in memory, and texts come from vLLM.

The weights are passed by vLLM's own `collective_rpc("reload_weights", kwargs={"weights_iterator":
...})`, which takes the names and shapes of a checkpoint (vLLM's documentation, "Layerwise
reloading"). The engine runs in this process, so no file is needed. If it is divided over several
processes, these read a file in shared memory (`weights_path`). The prefix cache is emptied each
time, since it holds keys and values of the previous weights.

What the backend uses of vLLM, 0.16 to 0.33: `LLM(model, load_format="dummy", ...)`,
`.collective_rpc`, `.reset_prefix_cache`, `.generate` with `prompt_token_ids`; `SamplingParams`; of
an output `outputs[0].token_ids`. Where the version has them, also `.llm_engine.set_weight_version`
and `outputs[0].weight_versions`. All of it is public.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor

from evomerge.compat.transformers import checkpoint_weights
from evomerge.errors import CandidateError, DeviceError, one_line
from evomerge.evaluation.inference.fingerprint import digest_of
from evomerge.evaluation.inference.generation import Prompt, end_tokens
from evomerge.evaluation.inference.vllm_start import (
    check_vllm,
    memory_folder,
    start_vllm,
    write_weights,
)
from evomerge.models.stacks import Stack, find_stacks, is_other_modality

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Names of tensors -> shapes."""


class VllmEngine:
    """A vLLM engine in this process, started with random weights.

    Args:
        model: a transformers model; the engine is made for its config and dtype. It is as deep as
            the deepest model that will be loaded.
        tensor_parallel: as in `start_vllm`.

    Raises:
        ConfigError: vLLM is not installed, is too old, does not support the model, or lacks memory.
    """

    def __init__(self, model: Any, tokenizer: Any, tensor_parallel: int = 1) -> None:
        check_vllm()
        self._ends = sorted(end_tokens(model))
        self._is_divided = tensor_parallel > 1
        weights = checkpoint_weights(model)
        self._llm = start_vllm(model, tokenizer, weights, tensor_parallel)
        self._shapes = {name: tuple(item.shape) for name, item in weights.items()}
        self._loaded = ""  # the digest of the loaded weights
        self._is_versioned = hasattr(self._llm.llm_engine, "set_weight_version")
        self._failure: str | None = None

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the model's weights and empty the prefix cache, unless they are loaded already.

        A model with fewer layers than the engine is completed by identity layers. The digest of the
        weights, without these, becomes the engine's weight version.

        Raises:
            CandidateError: the names or shapes are not those of the engine's model. vLLM would keep
                the previous values of a missing tensor.
            DeviceError: the weights could not be loaded, so the engine cannot be used any more.
        """
        state = with_identity_layers(weights, self._shapes)
        shapes = {name: tuple(tensor.shape) for name, tensor in state.items()}
        if shapes != self._shapes:
            name, _ = min(shapes.items() ^ self._shapes.items())
            raise CandidateError(
                f"vLLM cannot load these weights: tensor {name!r} has the shape {shapes.get(name)} "
                f"instead of {self._shapes.get(name)} (None: it is missing)."
            )
        digest = digest_of(weights)
        with self._fatal("load weights"):
            if digest == self._loaded:
                return
            self._loaded = ""
            with self._passed(state) as arguments:
                self._llm.collective_rpc("reload_weights", kwargs=arguments)
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("it did not empty its prefix cache of the previous weights")
            if self._is_versioned:
                self._llm.llm_engine.set_weight_version(digest)
            self._loaded = digest

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the new tokens of each prompt, up to a stop sequence or the limit.

        Raises:
            DeviceError: the engine failed and cannot be used any more.
        """
        from vllm import SamplingParams

        options = [
            SamplingParams(
                max_tokens=prompt.limit,
                stop=list(prompt.stops),
                stop_token_ids=self._ends,
                skip_special_tokens=False,  # a stop sequence may be a special token
                **_choice(prompt),
            )
            for prompt in prompts
        ]
        inputs = [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts]
        with self._fatal("run the model"):
            outputs: list[Any] = self._llm.generate(inputs, options, use_tqdm=False)
            for output in outputs if self._is_versioned else ():
                if {span.version for span in output.outputs[0].weight_versions} != {self._loaded}:
                    raise RuntimeError("an output comes from other weights than the loaded ones")
        return [list(output.outputs[0].token_ids) for output in outputs]

    @contextmanager
    def _passed(self, state: Mapping[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
        """Yield the arguments of `reload_weights` that pass these weights.

        Engines in several processes read them from a file in memory; each takes its part.
        """
        if not self._is_divided:
            yield {"weights_iterator": iter(state.items())}
            return
        with memory_folder() as folder:
            write_weights(state, folder)
            yield {"weights_path": str(folder)}

    @contextmanager
    def _fatal(self, action: str) -> Iterator[None]:
        """Turn an error of vLLM into a `DeviceError`, and refuse to use the engine after it.

        After a failed reload the weights are a mixture, and every later reload fails. After a
        failed run the requests remain in the engine's queue.
        """
        try:
            if self._failure is not None:
                raise RuntimeError(self._failure)
            yield
        except Exception as error:
            self._failure = one_line(error).rstrip(".")
            raise DeviceError(
                f"vLLM failed to {action} ({self._failure}), so its engine cannot be used any "
                "more; go on with `evomerge resume`, which marks a candidate with which this "
                "happens three times as failed."
            ) from error


def _choice(prompt: Prompt) -> dict[str, Any]:
    """Return the options by which vLLM chooses the next token."""
    sampling = prompt.sampling
    if sampling is None:
        return {"temperature": 0.0}
    return {
        "temperature": sampling.temperature,
        "top_k": sampling.top_k,
        "top_p": sampling.top_p,
        "min_p": sampling.min_p or 0.0,
        "seed": prompt.seed,
    }


def with_identity_layers(state: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Return the weights of a model, with identity layers before its own.

    They complete a model to the fixed depth of the engine. All their weights are zero, so their
    branches add zero to the hidden state (`merging/architecture/identity.py` tests architectures
    for this). They come before the model's own layers, where the hidden state is the embedding:
    adding zero is exact there in any dtype. Behind a layer it is not, since vLLM normalises the
    float32 sum of the hidden state and the layer's output.

    Args:
        state: the weights, with their names in a checkpoint; returned as they are if nothing can be
            added to them. New layers take no memory.
        shapes: those of a model of the same architecture with at least as many layers.
    """
    deep, own = _language(shapes), _language(state)
    if deep is None or own is None or deep.prefix != own.prefix or len(deep) <= len(own):
        return dict(state)
    added = len(deep) - len(own)
    moved = {
        own.name(layer, suffix): own.name(layer + added, suffix)
        for layer, block in enumerate(own.blocks)
        for suffix in block
    }
    completed = {moved.get(name, name): tensor for name, tensor in state.items()}
    for layer in range(added):
        for suffix in own.blocks[0]:
            name = own.name(layer, suffix)
            if name in shapes:
                zero = state[own.name(0, suffix)].new_zeros(())
                completed[name] = zero.expand(shapes[name])
    return completed


def _language(names: Shapes | Mapping[str, Tensor]) -> Stack | None:
    """Return the largest stack of layers that is not of another modality."""
    stacks = find_stacks(names)
    return next((stacks[prefix] for prefix in stacks if not is_other_modality(prefix)), None)
