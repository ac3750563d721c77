"""Starting vLLM: with which options, and what would break it."""

from __future__ import annotations

import gc
import math
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.errors import ConfigError, one_line
from evomerge.run.atomic import TemporaryFolder

if TYPE_CHECKING:
    import torch

_SHARED_MEMORY = "/dev/shm"  # a folder whose files are in memory, on Linux
ENGINE_SHARE = 0.6  # share of the GPU's memory for the engine; the merged model needs memory too
_CPU_CACHE = 2**29  # bytes for keys and values without a GPU, unless one text needs more
_CPU_BLOCK = 32  # tokens; texts share the blocks that they begin with (vLLM's default is 128)


def start_vllm(
    model: Any, tokenizer: Any, weights: Mapping[str, torch.Tensor], tensor_parallel: int = 1
) -> Any:
    """Return a running vLLM engine (`vllm.LLM`), whose weights are to be loaded before its use.

    It is made for the config and dtype of a transformers model, whose weights have the names of its
    checkpoint, and divided over `tensor_parallel` processes, each with an accelerator; with 1, it
    runs in this process.

    Raises:
        ConfigError: vLLM cannot be imported, does not support the model, or lacks memory.
    """
    import torch

    # Weights are passed in memory, so the engine must run in this process.
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")  # its messages would break the display
    # A program may start several engines. When one is collected, vLLM ends its process group,
    # even if a later engine uses it; and it hides objects from the garbage collector.
    gc.unfreeze()
    gc.collect()
    has_gpu = torch.accelerator.current_accelerator(check_available=True) is not None
    options = {"gpu_memory_utilization": ENGINE_SHARE} if has_gpu else _cpu_options(model)
    load_format, action = "dummy", "be imported"
    if tensor_parallel > 1:
        options |= {"tensor_parallel_size": tensor_parallel, "distributed_executor_backend": "mp"}
        load_format = "safetensors"  # an engine that starts without weights reads none later
    with _shielded(), memory_folder() as folder:
        try:
            from vllm import LLM

            action = "start with this model"
            for part in (model.config, model.generation_config, tokenizer):
                part.save_pretrained(folder)
            if tensor_parallel > 1:
                write_weights(weights, folder)
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
    import torch

    name = "llvmlite.binding.ffi"
    hidden, set_threads = sys.modules.pop(name, None), torch.set_num_threads
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        torch.set_num_threads = set_threads
        if hidden is not None:
            sys.modules[name] = hidden


def memory_folder() -> TemporaryFolder:
    """Return a new folder for a block; its files are in memory where the system can."""
    return TemporaryFolder(Path(_SHARED_MEMORY) if os.access(_SHARED_MEMORY, os.W_OK) else None)


def write_weights(weights: Mapping[str, torch.Tensor], folder: Path) -> None:
    """Write the weights of a checkpoint into a folder, as one safetensors file."""
    from safetensors.torch import save_file

    # The tensors of a file share no memory.
    copies = {name: weight.detach().to("cpu", copy=True) for name, weight in weights.items()}
    tensors = {name: copy.contiguous() for name, copy in copies.items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
