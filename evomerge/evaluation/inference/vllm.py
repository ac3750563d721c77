"""Scoring with vLLM: each candidate's weights are loaded into one engine, which generates texts.

Prompts and metrics are the same as with the hf backend. Log-likelihoods come from transformers,
where they cost less. Weights are passed by vLLM's own `collective_rpc("reload_weights")`, which
takes the names and shapes of a checkpoint: from the memory of this process, in which the engine
runs; or, if it is divided over several processes, from a file in shared memory. The prefix cache is
emptied each time, since it holds keys and values of the previous weights.

What the backend uses of vLLM, 0.16 to 0.33, is public: `LLM(model, load_format="dummy", ...)`,
`.collective_rpc`, `.reset_prefix_cache`, `.generate` with `prompt_token_ids`; `SamplingParams`; of
an output `outputs[0].token_ids`.
"""

import gc
import math
import os
import sys
import warnings
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor

from evomerge.compat.transformers import checkpoint_weights
from evomerge.config.evaluation import ENGINES
from evomerge.errors import CandidateError, ConfigError, DeviceError, blaming, one_line
from evomerge.evaluation.inference import generation
from evomerge.evaluation.inference.forward import DocumentRequests, Forward
from evomerge.evaluation.inference.generation import Prompt
from evomerge.evaluation.inference.reference import Request
from evomerge.models.stacks import Stack, find_stacks, is_other_modality
from evomerge.run.atomic import TemporaryFolder

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
"""Names of tensors -> shapes."""

_SHARED_MEMORY = "/dev/shm"  # a folder whose files are in memory, on Linux
_CPU_CACHE = 2**29  # bytes for keys and values without a GPU, unless one text needs more
_CPU_BLOCK = 32  # tokens; texts share the blocks that they begin with (vLLM's default is 128)
_TRIED, _NEW = 4, 16  # prompts with which an engine is tried, and new tokens of each


class VllmEngine:
    """A vLLM engine, started with random weights for the config and dtype of a transformers model.

    The model is as deep as the deepest one that will be loaded.

    Raises:
        ConfigError: vLLM is not installed, is too old, does not support the model, or lacks memory.
    """

    def __init__(self, model: Any, tokenizer: Any, tensor_parallel: int = 1) -> None:
        self._ends = sorted(generation.end_tokens(model))
        self._is_divided = tensor_parallel > 1
        weights = checkpoint_weights(model)
        self._llm = _start(model, tokenizer, weights, tensor_parallel)
        self._shapes = {name: tuple(item.shape) for name, item in weights.items()}

    def answering(self, scorer: Forward) -> "EngineForward":
        """Return what answers requests: with this engine, and log-likelihoods as `scorer` does."""
        return EngineForward(scorer, self)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Replace the model's weights and empty the prefix cache.

        A model with fewer layers than the engine is completed by identity layers.

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
        with _fatal("load weights"):
            with self._passed(state) as arguments:
                self._llm.collective_rpc("reload_weights", kwargs=arguments)
            if not self._llm.reset_prefix_cache():
                raise RuntimeError("it did not empty its prefix cache of the previous weights")

    def generate(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the new tokens of each prompt, up to a stop sequence or the limit.

        Raises:
            DeviceError: the engine failed and cannot be used any more.
        """
        from vllm import SamplingParams

        options = []
        for prompt in prompts:
            drawn: dict[str, Any] = {"temperature": 0.0}
            if prompt.sampling is not None:
                drawn = asdict(prompt.sampling) | {"seed": prompt.seed}
            ends = {"stop": list(prompt.stops), "stop_token_ids": self._ends}
            # A stop sequence may be a special token.
            ends |= {"max_tokens": prompt.limit, "skip_special_tokens": False}
            options.append(SamplingParams(**drawn, **ends))
        inputs = [{"prompt_token_ids": list(prompt.tokens)} for prompt in prompts]
        with _fatal("run the model"):
            outputs: list[Any] = self._llm.generate(inputs, options, use_tqdm=False)
        return [list(output.outputs[0].token_ids) for output in outputs]

    @contextmanager
    def _passed(self, state: Mapping[str, Tensor]) -> Iterator[dict[str, Any]]:
        """Yield the arguments of `reload_weights` that pass these weights."""
        if not self._is_divided:
            yield {"weights_iterator": iter(state.items())}
            return
        with _memory_folder() as folder:
            _write_weights(state, folder)
            yield {"weights_path": str(folder)}


def _fatal(action: str) -> AbstractContextManager[None]:
    """Turn an error of vLLM within into a `DeviceError`, which ends the search.

    After a failed reload the weights are a mixture, and every later reload fails. After a failed
    run the requests remain in the engine's queue.
    """
    return blaming(
        DeviceError,
        f"vLLM failed to {action} ({{reason}}); go on with `evomerge resume`, which marks a "
        "candidate with which this happens three times as failed.",
    )


def with_identity_layers(state: Mapping[str, Tensor], shapes: Shapes) -> dict[str, Tensor]:
    """Return the weights of a model, with identity layers before its own.

    They complete a model to the depth of the engine, whose tensors have these shapes. All their
    weights are zero, so their branches add zero to the hidden state
    (`merging/architecture/identity.py` tests architectures for this). They come before the model's
    own layers, where the hidden state is the embedding: adding zero is exact there in any dtype.
    Behind a layer it is not, since vLLM normalises the float32 sum of hidden state and output.
    New layers take no memory. Where nothing can be added, the weights are returned as they are.
    """
    deep, stack = _language(shapes), _language(state)
    if deep is None or stack is None or deep.prefix != stack.prefix or len(deep) <= len(stack):
        return dict(state)
    added = len(deep) - len(stack)
    moved = {
        stack.name(layer, suffix): stack.name(layer + added, suffix)
        for layer, block in enumerate(stack.blocks)
        for suffix in block
    }
    completed = {moved.get(name, name): tensor for name, tensor in state.items()}
    for layer in range(added):
        for suffix in stack.blocks[0]:
            name = stack.name(layer, suffix)
            if name in shapes:
                zero = state[stack.name(0, suffix)].new_zeros(())
                completed[name] = zero.expand(shapes[name])
    return completed


def _language(names: Shapes | Mapping[str, Tensor]) -> Stack | None:
    """Return the largest stack of layers that is not of another modality."""
    stacks = find_stacks(names)
    return next((stacks[prefix] for prefix in stacks if not is_other_modality(prefix)), None)


@dataclass
class EngineForward:
    """Runs models on requests as `Forward`, which scores continuations; an engine writes texts."""

    scorer: Forward
    engine: VllmEngine

    def check(self, model: Any, tasks: Sequence[Sequence[DocumentRequests]]) -> None:
        """Check that all requests can be answered by this backend, and try the engine.

        Raises:
            ConfigError: a task asks for more than greedy decoding or sampling, or the engine cannot
                run the model, or runs it in a different way.
        """
        requests = [r for task in tasks for document in task for r in document]
        for request in requests:
            if request.kind == "generate_until" and not request.prompts:
                raise ConfigError(
                    "evaluation.backend is 'vllm', which generates greedily or samples, but "
                    f"generation_kwargs of the task {request.instance.task_name!r} ask for more; "
                    "remove it, or use 'hf'."
                )
        prompts = [prompt for r in requests for prompt in r.prompts[:1]][:_TRIED]
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
                f"evaluation.backend is 'vllm', which cannot run this model ({reason}); use 'hf'."
            ) from error
        right = sum(map(partial(generation.is_greedy_up_to_rounding, model), prompts, texts))
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
        prompted = [r for document in documents for r in document if r.prompts]
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


def _start(
    model: Any, tokenizer: Any, weights: Mapping[str, Tensor], tensor_parallel: int = 1
) -> Any:
    """Return a running vLLM engine (`vllm.LLM`), whose weights are to be loaded before its use.

    It is made for the config and dtype of a transformers model, whose weights have the names of its
    checkpoint, and divided over `tensor_parallel` processes, each with an accelerator; with 1, it
    runs in this process.

    Raises:
        ConfigError: vLLM cannot be imported, does not support the model, or lacks memory.
    """
    # Weights are passed in memory, so the engine must run in this process.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its messages would break the display
    # A program may start several engines. When one is collected, vLLM ends its process group,
    # even if a later engine uses it; and it hides objects from the garbage collector.
    gc.unfreeze()
    gc.collect()
    has_gpu = torch.accelerator.current_accelerator(check_available=True) is not None
    share = ENGINES.get("vllm").memory_share
    options = {"gpu_memory_utilization": share} if has_gpu else _cpu_options(model)
    load_format, action = "dummy", "be imported"
    if tensor_parallel > 1:
        options |= {"tensor_parallel_size": tensor_parallel, "distributed_executor_backend": "mp"}
        load_format = "safetensors"  # an engine that starts without weights reads none later
    with _shielded(), _memory_folder() as folder:
        try:
            from vllm import LLM

            action = "start with this model"
            for part in (model.config, model.generation_config, tokenizer):
                part.save_pretrained(folder)
            if tensor_parallel > 1:
                _write_weights(weights, folder)
            options |= {"seed": 0, "use_tqdm_on_load": False}
            dtype = str(model.dtype).removeprefix("torch.")
            return LLM(model=str(folder), load_format=load_format, dtype=dtype, **options)
        except Exception as error:
            raise ConfigError(
                f"evaluation.backend is 'vllm', but vLLM cannot {action} "
                f"({one_line(error).rstrip('.')}); see docs/vllm.md, or use the backend 'hf'."
            ) from error


def _cpu_options(model: Any) -> dict[str, Any]:
    """Return the engine's options on a machine without a GPU.

    There `gpu_memory_utilization` would be a share of the whole machine's memory, so the size of
    the cache is given instead. The compilation of the model, which takes minutes, is left out.
    """
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    groups = getattr(config, "num_key_value_heads", None) or heads
    values = 2 * config.num_hidden_layers * width * groups
    longest = int(config.max_position_embeddings)
    # The engine divides the cache into blocks of tokens, so a little more is needed.
    one_text = math.ceil(1.02 * values * model.dtype.itemsize * (longest + 256))
    cache = max(_CPU_CACHE, one_text)
    return {"kv_cache_memory_bytes": cache, "enforce_eager": True, "block_size": _CPU_BLOCK}


@contextmanager
def _shielded() -> Iterator[None]:
    """Keep vLLM and the rest of the process from breaking each other while vLLM starts.

    - vLLM reads the attributes of all modules, and fails at llvmlite's library. So it is hidden.
    - vLLM for CPUs replaces `torch.set_num_threads` by a function that does nothing. The original
      is put back, since this process also merges and scores with torch.
    """
    name = "llvmlite.binding.ffi"
    hidden, set_threads = sys.modules.pop(name, None), torch.set_num_threads
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_num_threads = set_threads
        if hidden is not None:
            sys.modules[name] = hidden


def _memory_folder() -> TemporaryFolder:
    """Return a new folder for a block; its files are in memory where the system can."""
    return TemporaryFolder(Path(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK) else None)


def _write_weights(weights: Mapping[str, Tensor], folder: Path) -> None:
    """Write the weights of a checkpoint into a folder, as one safetensors file."""
    from safetensors.torch import save_file

    # The tensors of a file share no memory.
    copies = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    tensors = {name: copy.contiguous() for name, copy in copies.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
