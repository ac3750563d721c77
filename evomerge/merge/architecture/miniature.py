"""A small copy of an architecture with random weights, taken apart into functions of its state.

What an architecture computes, apart from its sizes, can be asked of it: no list says where the
norms are or what a block adds. The copy goes through the same loader as real checkpoints, so its
weights have the names that they have on disk.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.merge.architecture.layout import build
from evomerge.merge.architecture.loading import model_class, quiet, transformers_config
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stacks import Stack

_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 4),
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": 64,
}
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_BLOCK = re.compile(r"(.*?\.\d+)\.")
_TOKENS = 5


class NoMiniatureError(Exception):
    """No small copy of an architecture can be made or run; says why."""


@dataclass(frozen=True)
class Weight:
    """All tensors of one kind in a part (the same matrix of all experts, say).

    Attributes:
        name: the tensors' name on disk, numbers in it written `*`.
        views: the tensors, in the copy's memory.
        offset: what the architecture adds before it multiplies (1 in Gemma's norms).
    """

    name: str
    views: tuple[Tensor, ...]
    offset: float

    @property
    def is_vector(self) -> bool:
        """Whether it is a norm's weight or a bias."""
        return self.views[0].dim() == 1


@dataclass(frozen=True)
class Part:
    """A function of the hidden state and of the weights in it.

    Attributes:
        run: hidden state (1, tokens, features), float32 -> what the part makes of it.
        state: a hidden state to probe it with.
        weights: its weights, in the order in which the architecture registers them.
        degree: 1 where the result is a hidden state again (a block), 0 where it is logits.
    """

    run: Callable[[Tensor], Tensor]
    state: Tensor
    weights: Sequence[Weight]
    degree: int


@contextmanager
def times(pairs: Sequence[tuple[Weight, float]]) -> Iterator[None]:
    """Multiply weights for a while, each by its factor."""
    kept = [(view, view.clone()) for weight, _ in pairs for view in weight.views]
    for weight, factor in pairs:
        for view in weight.views:
            view.add_(weight.offset).mul_(factor).sub_(weight.offset)
    try:
        yield
    finally:
        for view, old in kept:
            view.copy_(old)


def kind_of(rest: str) -> str:
    """Return a tensor's name with the numbers in it (experts) written as `*`."""
    return _NUMBER.sub("*", rest)


def small_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of the same architecture and depth with small sizes and tiny epsilons."""
    small: dict[str, Any] = {}
    for key, value in config.items():
        if key in _SIZES and isinstance(value, int):
            small[key] = _SIZES[key]
        elif "eps" in key and isinstance(value, float):
            small[key] = 1e-12
        elif "dropout" in key or key.endswith("_pdrop"):
            small[key] = 0.0
        elif key.endswith("_token_id"):
            small[key] = None
        elif key in ("rope_scaling", "rope_parameters"):
            small[key] = _plain_rope(value)
        elif key not in ("torch_dtype", "dtype", "quantization_config", "tie_word_embeddings"):
            small[key] = value
    groups = config.get("num_key_value_heads")
    if groups == 1 or (groups and groups == config.get("num_attention_heads")):
        small["num_key_value_heads"] = 1 if groups == 1 else _SIZES["num_attention_heads"]
    if "qk_rope_head_dim" in small and "head_dim" in small:  # the rotary part is called a head
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


def _plain_rope(value: Any) -> Any:
    """Drop scalings of rotary frequencies, which have lists as long as a head."""
    if not isinstance(value, Mapping):
        return None
    if any(isinstance(item, Mapping) for item in value.values()):
        return {key: _plain_rope(item) for key, item in value.items()}
    kept = {key: value[key] for key in ("rope_theta", "partial_rotary_factor") if key in value}
    return {"rope_type": "default", **kept} if kept else None


class Miniature:
    """A small causal language model of an architecture, random weights, float32 on the CPU.

    Args:
        config: `config.json` of a causal language model.
        stack: last word of the name of its block stack (`layers`, `h`).

    Raises:
        NoMiniatureError: transformers makes no such model of small sizes, or it does not run.
    """

    def __init__(self, config: Mapping[str, Any], stack: str) -> None:
        self._tokens = torch.randint(1, _SIZES["vocab_size"], (1, _TOKENS))
        try:
            self._make(small_config(config))
            self._stack = self._find(stack)
            self._modules = [self._module(index) for index in range(len(self._stack))]
            self._calls = self._record()
        except NoMiniatureError:
            raise
        except Exception as error:  # whatever a foreign architecture makes of small sizes
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NoMiniatureError(
                f"no small copy of it can be made to find out how ({reason})"
            ) from None

    def blocks(self) -> Iterator[Part]:
        """Yield one block of every kind."""
        seen: set[tuple[object, ...]] = set()
        for index, rests in enumerate(self._stack.blocks):
            module, call = self._modules[index], self._calls[index]
            kind = (type(module), frozenset(map(kind_of, rests)))
            if kind not in seen:
                seen.add(kind)
                yield Part(
                    _Run(module, call),
                    self._random_state(),
                    self._weights({rest: self._stack.name(index, rest) for rest in rests}),
                    degree=1,
                )

    def tail(self) -> Part:
        """Return what follows the last block, up to the logits."""
        inside = {
            self._stack.name(index, rest)
            for index, rests in enumerate(self._stack.blocks)
            for rest in rests
        }

        def run(state: Tensor) -> Tensor:
            def swap(module: nn.Module, inputs: Any, output: Any) -> Any:
                return state if isinstance(output, Tensor) else type(output)([state, *output[1:]])

            handle = self._modules[-1].register_forward_hook(swap)
            try:
                return self._logits()
            finally:
                handle.remove()

        outside = {name: name for name in self._spots if name not in inside}
        weights = [weight for weight in self._weights(outside) if weight.is_vector]
        return Part(run, self._random_state(), weights, degree=0)

    def _make(self, config: dict[str, Any]) -> None:
        made = transformers_config(config)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            with quiet():
                model_class(made)(made).save_pretrained(folder)
            saved = Checkpoint.open(folder, "miniature")
            shapes = {name: info.shape for name, info in saved.tensors.items()}
            skeleton = build(saved.config, folder, shapes, {}, torch.float32)
        self._stacks, self._spots = saved.stacks, skeleton.spots
        self.model: Any = skeleton.module
        attend = getattr(self.model, "set_attn_implementation", None)
        if attend is not None:
            with quiet():
                attend("eager")
        for weight in self.model.parameters():
            if weight.dim() == 1:
                weight.data = 0.7 + 0.5 * torch.randn(weight.shape, dtype=torch.float32)
            else:
                weight.data = torch.randn(weight.shape, dtype=torch.float32)
                weight.data /= weight.shape[-1] ** 0.5
        self._parameters = dict(self.model.named_parameters())

    def _find(self, stack: str) -> Stack:
        for prefix, found in self._stacks.items():
            if prefix.rpartition(".")[2] == stack:
                return found
        raise NoMiniatureError(f"a small copy of it has no block stack {stack!r}")

    def _module(self, index: int) -> nn.Module:
        rest = self._stack.blocks[index][0]
        match = _BLOCK.match(self._spots[self._stack.name(index, rest)].parameter)
        if match is None:
            raise NoMiniatureError("its blocks are not modules of their own")
        module: nn.Module = self.model.get_submodule(match.group(1))
        return module

    def _record(self) -> list[Callable[[nn.Module, Tensor], Any]]:
        """Run the model once and return, for each block, how it is called with another state."""
        calls: list[Callable[[nn.Module, Tensor], Any]] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            kept = dict(kwargs)
            if args:
                calls.append(lambda block, state: block(state, *args[1:], **kept))
                self._width = args[0].shape[-1]
            else:
                self._width = kept.pop("hidden_states").shape[-1]
                calls.append(lambda block, state: block(hidden_states=state, **kept))

        handles = [
            module.register_forward_pre_hook(note, with_kwargs=True) for module in self._modules
        ]
        try:
            self._logits()
        finally:
            for handle in handles:
                handle.remove()
        if len(calls) != len(self._modules):
            raise NoMiniatureError("its blocks are not run one after the other")
        return calls

    def _logits(self) -> Tensor:
        logits: Tensor = self.model(input_ids=self._tokens, use_cache=False).logits
        return logits

    def _random_state(self) -> Tensor:
        return torch.randn(1, _TOKENS, self._width, dtype=torch.float32)

    def _weights(self, names: Mapping[str, str]) -> list[Weight]:
        """Group tensors (short name -> name on disk) by kind."""
        order = {parameter: place for place, parameter in enumerate(self._parameters)}
        kinds: dict[str, list[str]] = {}
        placed = sorted(
            (order[self._spots[name].parameter], short, name)
            for short, name in names.items()
            if name in self._spots and self._spots[name].parameter in order
        )
        for _, short, name in placed:
            kinds.setdefault(kind_of(short), []).append(name)
        return [
            Weight(kind, tuple(map(self._view, members)), self._offset(members[0]))
            for kind, members in kinds.items()
        ]

    def _view(self, name: str) -> Tensor:
        spot = self._spots[name]
        parameter = self._parameters[spot.parameter].data
        sizes = {of: size for of, size in zip(spot.axes, spot.size, strict=True) if of >= 0}
        return spot.view(parameter, tuple(sizes[axis] for axis in sorted(sizes)))

    def _offset(self, name: str) -> float:
        """Find a in (w + a) * normal(x), by running the norm that owns w with w = 0 and w = 1."""
        owner, _, leaf = self._spots[name].parameter.rpartition(".")
        weight = self._parameters[self._spots[name].parameter].data
        if weight.dim() != 1 or leaf == "bias":
            return 0.0
        module: Any = self.model.get_submodule(owner)
        state = torch.randn(_TOKENS, weight.shape[0], dtype=torch.float32)
        kept = weight.clone()
        try:
            low, high = (module(state) for _ in map(weight.fill_, (0.0, 1.0)))
        except Exception:  # not a norm: nothing is added to its weight
            return 0.0
        finally:
            weight.copy_(kept)
        step = (high - low).flatten()
        bias = getattr(module, "bias", None)
        base = (low - bias if isinstance(bias, Tensor) else low).flatten()
        return float(round(float(base @ step) / float(step @ step), 3)) + 0.0


@dataclass(frozen=True)
class _Run:
    """A block, called as the whole model calls it."""

    block: nn.Module
    call: Callable[[nn.Module, Tensor], Any]

    def __call__(self, state: Tensor) -> Tensor:
        output = self.call(self.block, state)
        result = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(result, Tensor):
            raise NoMiniatureError("its blocks do not return a hidden state")
        return result
