"""A small model of an architecture with random weights, divided into functions of the hidden state.

It answers questions about an architecture by computing: no table says where the norms are or what
a block adds. It is loaded like a real checkpoint, so its weights have the names they have on disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from evomerge.merging.architecture.layout import build_layout
from evomerge.merging.architecture.loading import model_class, quiet, transformers_config
from evomerge.merging.architecture.small_config import SMALL_SIZES, small_config
from evomerge.merging.architecture.submodel import (
    NoMiniatureError,
    Submodel,
    WeightGroup,
    kind_of,
)
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.stacks import Stack
from evomerge.run.atomic import TemporaryFolder

_BLOCK = re.compile(r"(.*?\.\d+)\.")
_TOKENS = 5


def language_config(checkpoint: Checkpoint) -> str:
    """Return `config.json` of a checkpoint's language model alone, as JSON text."""
    data = {**checkpoint.text_config, "architectures": checkpoint.config.get("architectures")}
    if checkpoint.text_config is not checkpoint.config:
        data["architectures"] = None  # a vision-language model: only its language model is probed
    return json.dumps(data, sort_keys=True)


class Miniature:
    """A small causal language model with random weights, in float32 on the CPU.

    Args:
        config: `config.json` of a causal language model.
        stack: last word of the name of its block stack (`layers`, `h`).

    Raises:
        NoMiniatureError: transformers cannot build the model with small sizes, or it does not run.
    """

    def __init__(self, config: Mapping[str, Any], stack: str) -> None:
        self._tokens = torch.randint(1, SMALL_SIZES["vocab_size"], (1, _TOKENS))
        try:
            self._make(small_config(config))
            self._stack = self._find(stack)
            self._modules = [self._module(index) for index in range(len(self._stack))]
            self._calls = self._record()
        except NoMiniatureError:
            raise
        except Exception as error:  # an architecture may raise anything for sizes that do not fit
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise NoMiniatureError(
                f"no small model of it can be made to find out how ({reason})"
            ) from None

    def layers(self) -> list[MiniatureBlock]:
        """Return all blocks in order."""
        return [
            MiniatureBlock(module, call)
            for module, call in zip(self._modules, self._calls, strict=True)
        ]

    def blocks(self) -> Iterator[Submodel]:
        """Yield one block of every kind; a kind is a module class with a set of tensor names."""
        seen: set[tuple[object, ...]] = set()
        layers = self.layers()
        for index, rests in enumerate(self._stack.blocks):
            kind = (type(layers[index].module), frozenset(map(kind_of, rests)))
            if kind not in seen:
                seen.add(kind)
                yield Submodel(
                    layers[index],
                    self.random_state(),
                    self._weights({rest: self._stack.name(index, rest) for rest in rests}),
                    degree=1,
                )

    def tail(self) -> Submodel:
        """Return all that follows the last block, up to the logits; its weights are the vectors."""
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

        outside = {name: name for name in self._locations if name not in inside}
        weights = [weight for weight in self._weights(outside) if weight.is_vector]
        return Submodel(run, self.random_state(), weights, degree=0)

    def _make(self, config: dict[str, Any]) -> None:
        made = transformers_config(config)
        with TemporaryFolder() as folder:
            with quiet():
                model_class(made)(made).save_pretrained(folder)
            saved = Checkpoint.open(folder, "miniature")
            shapes = {name: info.shape for name, info in saved.tensors.items()}
            layout = build_layout(saved.config, shapes, {}, torch.float32)
        self._stacks, self._locations = saved.stacks, layout.locations
        self.model: Any = layout.module
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
        raise NoMiniatureError(f"a small model of it has no block stack {stack!r}")

    def _module(self, index: int) -> nn.Module:
        rest = self._stack.blocks[index][0]
        match = _BLOCK.match(self._locations[self._stack.name(index, rest)].parameter)
        if match is None:
            raise NoMiniatureError("its blocks are not modules of their own")
        module: nn.Module = self.model.get_submodule(match.group(1))
        return module

    def _record(self) -> list[Callable[[nn.Module, Tensor], Any]]:
        """Run the model once; return, for each block, a function that calls it as the model does.

        The function takes the block and the hidden state; other arguments are those of the run.
        """
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

    def random_state(self) -> Tensor:
        """Return a random hidden state, float32, of shape (1, tokens, features)."""
        return torch.randn(1, _TOKENS, self._width, dtype=torch.float32)

    def _weights(self, names: Mapping[str, str]) -> list[WeightGroup]:
        """Group tensors by kind.

        Args:
            names: name within the block (or the name on disk, outside of blocks) -> name on disk.
        """
        order = {parameter: place for place, parameter in enumerate(self._parameters)}
        kinds: dict[str, list[str]] = {}
        placed = sorted(
            (order[self._locations[name].parameter], short, name)
            for short, name in names.items()
            if name in self._locations and self._locations[name].parameter in order
        )
        for _, short, name in placed:
            kinds.setdefault(kind_of(short), []).append(name)
        return [
            WeightGroup(kind, tuple(map(self._view, members)), self._offset(members[0]))
            for kind, members in kinds.items()
        ]

    def _view(self, name: str) -> Tensor:
        location = self._locations[name]
        parameter = self._parameters[location.parameter].data
        sizes = {of: size for of, size in zip(location.axes, location.size, strict=True) if of >= 0}
        return location.view(parameter, tuple(sizes[axis] for axis in sorted(sizes)))

    def _offset(self, name: str) -> float:
        """Return the offset a of a norm that computes (w + a) * normalized(x), else 0.

        It follows from the norm's outputs for w = 0 and w = 1.
        """
        owner, _, leaf = self._locations[name].parameter.rpartition(".")
        weight = self._parameters[self._locations[name].parameter].data
        if weight.dim() != 1 or leaf == "bias":
            return 0.0
        module: Any = self.model.get_submodule(owner)
        state = torch.randn(_TOKENS, weight.shape[0], dtype=torch.float32)
        kept = weight.clone()
        try:
            low, high = (module(state) for _ in map(weight.fill_, (0.0, 1.0)))
        except Exception:  # not a norm (it takes other arguments): it adds nothing to its weight
            return 0.0
        finally:
            weight.copy_(kept)
        step = (high - low).flatten()
        bias = getattr(module, "bias", None)
        base = (low - bias if isinstance(bias, Tensor) else low).flatten()
        return float(round(float(base @ step) / float(step @ step), 3)) + 0.0


@dataclass(frozen=True)
class MiniatureBlock:
    """A block of the small model, called as the whole model calls it.

    Attributes:
        module: the block.
        call: calls it with a hidden state; other arguments are those of a run of the model.
    """

    module: nn.Module
    call: Callable[[nn.Module, Tensor], Any]

    def __call__(self, state: Tensor) -> Tensor:
        """Return the hidden state after the block, given that before it."""
        output = self.call(self.module, state)
        result = output[0] if isinstance(output, (tuple, list)) else output
        if not isinstance(result, Tensor):
            raise NoMiniatureError("its blocks do not return a hidden state")
        return result
