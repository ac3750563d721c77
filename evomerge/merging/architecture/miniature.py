"""A small model of an architecture with random weights, divided into functions of the hidden state.

It is loaded like a real checkpoint, so its weights have the names they have on disk.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from evomerge.compat.transformers import quiet
from evomerge.merging.architecture.layout import build_layout
from evomerge.merging.architecture.loading import model_class, transformers_config
from evomerge.models.checkpoint import Checkpoint
from evomerge.run.atomic import TemporaryFolder

_BLOCK = re.compile(r"(.*?\.\d+)\.")
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")
_TOKENS = 5
STATE = "hidden_states"

SMALL_SIZES = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "word_embed_proj_dim"), 32),
    **dict.fromkeys(("num_attention_heads", "num_key_value_heads", "n_head", "n_heads"), 4),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff"), 48),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank"), 16),
    **dict.fromkeys(("head_dim", "v_head_dim", "qk_nope_head_dim"), 8),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), 4),
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "vocab_size": 64,
}
"""Sizes of the small model, by the key of the config; architectures name them differently."""


_LEFT_OUT = ("rope_scaling", "rope_parameters", "torch_dtype", "dtype", "tie_word_embeddings")
"""Keys that the small model does not have: rotary settings may have lists as long as a head."""


class ArchitectureError(Exception):
    """Why an architecture has not what is asked of it, or a small copy of it cannot be made."""


def language_config(checkpoint: Checkpoint) -> str:
    """Return `config.json` of a checkpoint's language model alone, as JSON text."""
    is_whole = checkpoint.text_config is checkpoint.config
    architectures = checkpoint.config.get("architectures") if is_whole else None
    return json.dumps({**checkpoint.text_config, "architectures": architectures}, sort_keys=True)


def small_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config of the same architecture and depth, with small sizes and epsilons of 1e-12.

    So norms ignore the size of their input.
    """
    small: dict[str, Any] = {}
    for key, value in config.items():
        if key in SMALL_SIZES and isinstance(value, int):
            small[key] = SMALL_SIZES[key]
        elif "eps" in key and isinstance(value, float):
            small[key] = 1e-12
        elif key.endswith("_token_id"):
            small[key] = None
        elif key not in _LEFT_OUT:
            small[key] = value
    if "qk_rope_head_dim" in small and "head_dim" in small:  # the size of the rotary part
        small["head_dim"] = small["qk_rope_head_dim"]
    return small


class WeightGroup(NamedTuple):
    """All tensors of one kind in a submodel (for example, the same matrix of all experts).

    `views` are views into the model's parameters; `offset` is what the architecture adds to the
    weight before it uses it (1 in Gemma's norms).
    """

    name: str
    views: tuple[Tensor, ...]
    offset: float


def kind_of(suffix: str) -> str:
    """Return the kind of a tensor: its name within a block with numbers (of experts) as `*`."""
    return _NUMBER.sub("*", suffix)


class Submodel(NamedTuple):
    """A block, or all that follows the last block, as a function of the hidden state.

    Attributes:
        run: the function; takes a float32 hidden state of shape (1, tokens, features).
        state: a random hidden state to call it with.
        weights: in the order in which the architecture registers them.
        degree: 1 if the result scales with the hidden state (a block), 0 if it must not (the tail).
    """

    run: Callable[[Tensor], Tensor]
    state: Tensor
    weights: Sequence[WeightGroup]
    degree: int


@contextmanager
def multiplied(pairs: Sequence[tuple[WeightGroup, float]]) -> Iterator[None]:
    """Multiply weights by their factors inside of the `with` block, then restore them."""
    kept = [(view, view.clone()) for weight, _ in pairs for view in weight.views]
    for weight, factor in pairs:
        for view in weight.views:
            view.add_(weight.offset).mul_(factor).sub_(weight.offset)
    try:
        yield
    finally:
        for view, old in kept:
            view.copy_(old)


class MiniatureBlock(NamedTuple):
    """A block of the small model; `run` gives the hidden state after it, given that before it."""

    module: nn.Module
    run: Callable[[Tensor], Tensor]


class Miniature:
    """A small model with random weights, in float32 on the CPU.

    `config` is the `config.json` of a text model, `stack` the last word of the name of its block
    stack. `ArchitectureError`: transformers cannot build the model with small sizes or run it.
    """

    def __init__(self, config: Mapping[str, Any], stack: str) -> None:
        self._tokens = torch.randint(1, SMALL_SIZES["vocab_size"], (1, _TOKENS))
        try:
            self._make(small_config(config), stack)
            self.layers = self._record()
        except ArchitectureError:
            raise
        except Exception as error:  # an architecture may raise anything for sizes that do not fit
            raise ArchitectureError(
                "it is found out on a small model of its architecture, which cannot be made or run"
            ) from error

    def blocks(self) -> Iterator[Submodel]:
        """Yield one block of every kind; a kind is a module class with a set of tensor names."""
        seen: set[tuple[object, ...]] = set()
        for index, suffixes in enumerate(self._stack.blocks):
            layer = self.layers[index]
            kind = (type(layer.module), frozenset(map(kind_of, suffixes)))
            if kind not in seen:
                seen.add(kind)
                names = {suffix: self._stack.name(index, suffix) for suffix in suffixes}
                yield Submodel(layer.run, self.random_state(), self._weights(names), degree=1)

    def tail(self) -> Submodel:
        """Return all that follows the last block, up to the result, as without weights."""

        def run(state: Tensor) -> Tensor:
            def swap(module: nn.Module, inputs: Any, output: Any) -> Any:
                return state if isinstance(output, Tensor) else type(output)([state, *output[1:]])

            handle = self._modules[-1].register_forward_hook(swap)
            try:
                return self._result()
            finally:
                handle.remove()

        return Submodel(run, self.random_state(), (), degree=0)

    def random_state(self) -> Tensor:
        """Return a random hidden state (see `Submodel.run`)."""
        return torch.randn(1, _TOKENS, self._width, dtype=torch.float32)

    def _make(self, config: dict[str, Any], stack: str) -> None:
        """Build the model, with random weights, and find its blocks."""
        made = transformers_config(config)
        with TemporaryFolder() as folder:
            with quiet():
                model_class(made)(made).save_pretrained(folder)
            saved = Checkpoint.open(folder, "miniature")
            shapes = {name: info.shape for name, info in saved.tensors.items()}
            layout = build_layout(saved.config, shapes, {}, torch.float32)
        self._locations = layout.locations
        self.model = cast(Any, layout.module)
        with quiet():
            self.model.set_attn_implementation("eager")
        for weight in self.model.parameters():
            random = torch.randn(weight.shape, dtype=torch.float32)
            is_vector = weight.dim() == 1
            weight.data = 0.7 + 0.5 * random if is_vector else random / weight.shape[-1] ** 0.5
        self._parameters = dict(self.model.named_parameters())
        stacks = [it for prefix, it in saved.stacks.items() if prefix.rpartition(".")[2] == stack]
        if not stacks:
            raise ArchitectureError(f"a small model of it has no block stack {stack!r}")
        self._stack, self._modules = stacks[0], []
        for index, (suffix, *_) in enumerate(self._stack.blocks):
            match = _BLOCK.match(self._locations[self._stack.name(index, suffix)].parameter)
            if match is None:
                raise ArchitectureError("its blocks are not modules of their own")
            self._modules.append(self.model.get_submodule(match.group(1)))

    def _record(self) -> list[MiniatureBlock]:
        """Run the model once; return its blocks in the order in which they ran."""
        blocks: list[MiniatureBlock] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            def run(state: Tensor) -> Tensor:
                first = (state,) if args else ()
                output = module(*first, *args[1:], **kwargs | ({} if args else {STATE: state}))
                result = output[0] if isinstance(output, (tuple, list)) else output
                if not isinstance(result, Tensor):
                    raise ArchitectureError("its blocks do not return a hidden state")
                return result

            self._width = (args[0] if args else kwargs[STATE]).shape[-1]
            blocks.append(MiniatureBlock(module, run))

        hooks = [it.register_forward_pre_hook(note, with_kwargs=True) for it in self._modules]
        try:
            self._result()
        finally:
            for hook in hooks:
                hook.remove()
        if [block.module for block in blocks] != self._modules:
            raise ArchitectureError("its blocks are not run one after the other")
        return blocks

    def _result(self) -> Tensor:
        """Return the logits, or the last hidden state of a model without a head."""
        result: Tensor = self.model(input_ids=self._tokens, use_cache=False)[0]
        return result

    def _weights(self, names: Mapping[str, str]) -> list[WeightGroup]:
        """Group tensors by kind: name within the block (or on disk) -> name on disk."""
        order = {parameter: number for number, parameter in enumerate(self._parameters)}
        kinds: dict[str, list[str]] = {}
        parameters = {name: location.parameter for name, location in self._locations.items()}
        known = [(short, name) for short, name in names.items() if parameters.get(name) in order]
        for short, name in sorted(known, key=lambda it: (order[parameters[it[1]]], *it)):
            kinds.setdefault(kind_of(short), []).append(name)
        return [
            WeightGroup(kind, tuple(map(self._view, members)), self._offset(members[0]))
            for kind, members in kinds.items()
        ]

    def _view(self, name: str) -> Tensor:
        location = self._locations[name]
        return location.view(self._parameters[location.parameter].data)

    def _offset(self, name: str) -> float:
        """Return 1 if the weight is of a norm that computes (w + 1) * normalized(x), else 0."""
        owner, _, leaf = self._locations[name].parameter.rpartition(".")
        weight = self._parameters[self._locations[name].parameter].data
        if weight.dim() != 1 or leaf == "bias":
            return 0.0
        module: Any = self.model.get_submodule(owner)
        state = torch.randn(_TOKENS, weight.shape[0], dtype=torch.float32)
        kept = weight.clone()
        try:
            weight.zero_()
            result = module(state)
        except Exception:  # not a norm (it takes other arguments): it adds nothing to its weight
            return 0.0
        finally:
            weight.copy_(kept)
        bias = getattr(module, "bias", None)
        return float((result - bias if isinstance(bias, Tensor) else result).abs().max() > 1e-3)
