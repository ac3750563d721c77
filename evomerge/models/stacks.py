"""What the names of tensors show: block stacks, components of a block, modalities, buffers."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

from evomerge.models.safetensors import TensorInfo

Modality: TypeAlias = Literal["vision", "projector", "audio"]
"""A part of a model beside its language model; a projector joins a tower to the language model."""

_OTHER_MODALITY = re.compile(
    r"(^|[._])(vision|visual|image|img|audio|speech|video|multi_modal|multimodal|mm|vqmodel)"
    r"([._]|$)|(?<!vocab_)projector|perceiver|resampler|connector|(^|\.)aligner\."
)
_PROJECTOR = re.compile(
    r"(?<!vocab_)projector|perceiver|resampler|connector|image_newline|embed_(vision|audio)"
    r"|(^|[._])merger([._]|$)|(^|\.)aligner\."
)
_AUDIO = re.compile(r"(^|[._])(audio|speech)([._]|$)")
_BUFFER = re.compile(r"(^|\.)(inv_freq|masked_bias|position_ids|token_type_ids)$")
_MASK = re.compile(r"(^|\.)(attn|attention|self_attn)\.bias$")
_COMPONENTS: dict[Literal["attention", "mlp"], re.Pattern[str]] = {
    "attention": re.compile(r"attn|attention|mixer", re.IGNORECASE),
    "mlp": re.compile(r"mlp|feed_forward|ffn|moe|densereludense|intermediate|output|fc\d", re.I),
}
_CROSS = re.compile(r"encoder_attn|encdecattention|cross_?att(entio)?n", re.IGNORECASE)
_ROUTER = re.compile(r"^(gate|router|\w+_gate)$")
_EXPERT = re.compile(r"\.(experts\.(?P<number>\d+)|shared_experts?)\.")
_NORM = re.compile(r"norm|(^|\.)ln_", re.IGNORECASE)
_WEIGHT_OR_BIAS = re.compile(r"[._](weight|bias)$")
_SHARED = re.compile(r"relative_attention_bias\.weight$")
INDEX = re.compile(r"0|[1-9][0-9]{0,5}")
"""Index of a block, as it stands in the names of its tensors."""

PREDICTION_COUNTS = ("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers")
"""Keys of configs with the number of layers for multi-token prediction."""

_PREDICTION = re.compile(r"(^|\.)mtp(_\w+)?\.")
_JOIN = re.compile(r"(.+\.\d+\.)eh_proj\.")  # joins the hidden state and the next embedding


@dataclass(frozen=True)
class Stack:
    """A sequence of numbered blocks; `prefix` is before the index in names (`model.layers`)."""

    prefix: str
    blocks: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        return len(self.blocks)

    @cached_property
    def shared(self) -> frozenset[str]:
        """Tensors that the first block alone has and all blocks use (T5's relative biases)."""
        first, *others = map(set, self.blocks)
        of_first = first.difference(*others) if others else ()
        return frozenset(filter(_SHARED.search, of_first))

    def moved(self, layer: int, position: int) -> tuple[str, ...]:
        """Return the names of the tensors of block `layer` at a position of a new stack.

        What all blocks share stands in the first block of the new stack, and in no other.
        """
        if not self.shared:
            return self.blocks[layer]
        others = tuple(suffix for suffix in self.blocks[layer] if suffix not in self.shared)
        return others if position else (*sorted(self.shared), *others)

    def name(self, layer: int, suffix: str) -> str:
        """Return the full name of a tensor of block `layer`; `suffix` has no prefix and index."""
        return f"{self.prefix}.{layer}.{suffix}"

    @property
    def names(self) -> Iterator[str]:
        """The full names of all tensors."""
        blocks = enumerate(self.blocks)
        return (self.name(layer, suffix) for layer, block in blocks for suffix in block)

    def used(self, layer: int, suffix: str) -> str:
        """Return the full name of a tensor that a block uses; shared ones are in the first."""
        return self.name(0 if suffix in self.shared else layer, suffix)


def is_other_modality(name: str) -> bool:
    """Whether a tensor or stack belongs to vision or audio, not to the language model."""
    return bool(_OTHER_MODALITY.search(name))


def modality_of(name: str) -> Modality | None:
    """Return the modality that a tensor belongs to, or None if it is one of the language model."""
    if not is_other_modality(name):
        return None
    if _PROJECTOR.search(name):
        return "projector"
    return "audio" if _AUDIO.search(name) else "vision"


def is_buffer(name: str, info: TensorInfo) -> bool:
    """Whether a tensor is computed from the config, not trained; old checkpoints store some."""
    return bool(_BUFFER.search(name)) or (len(info.shape) == 4 and bool(_MASK.search(name)))


def component_of(suffix: str) -> tuple[Literal["attention", "mlp", "norm"] | None, str]:
    """Return the component of a tensor in a block, and the part of its name that shows it."""
    words = suffix.split(".")[:-1]
    for component, pattern in _COMPONENTS.items():
        for word in words:
            if pattern.search(word) and not _NORM.search(word):
                return component, word
    for word in words:
        if _NORM.search(word):
            return "norm", word
    return None, ""


def find_stacks(names: Iterable[str]) -> dict[str, Stack]:
    """Return the block stacks in a list of tensor names, by prefix, the largest first.

    The first number in a name is the index of the block; further numbers are experts or sublayers.
    The indices of a stack are 0, 1, 2, ... without a gap. Each block has at least 2 tensors, and
    the largest has at least 4: fewer are usually a plain list of linear layers.
    """
    groups: dict[str, dict[int, list[str]]] = {}
    for name in names:
        words = name.split(".")
        at = next((i for i, word in enumerate(words) if INDEX.fullmatch(word)), None)
        if at and at + 1 < len(words):
            group = groups.setdefault(".".join(words[:at]), {})
            group.setdefault(int(words[at]), []).append(".".join(words[at + 1 :]))
    stacks = [
        Stack(prefix, tuple(tuple(blocks[i]) for i in range(len(blocks))))
        for prefix, blocks in groups.items()
        if set(blocks) == set(range(len(blocks)))
        and min(map(len, blocks.values())) >= 2
        and max(map(len, blocks.values())) >= 4
    ]
    stacks.sort(key=lambda stack: (-sum(map(len, stack.blocks)), stack.prefix))
    return {stack.prefix: stack for stack in stacks}


def prediction_tensors(names: Iterable[str]) -> frozenset[str]:
    """Return those tensors of a checkpoint that belong to layers for multi-token prediction (MTP).

    DeepSeek-V3, GLM-4-MoE, Qwen3-Next and others have such layers, as further blocks behind the
    last one, or under the name `mtp`. transformers does not load them, so they are not merged.
    """
    names = list(names)
    blocks = tuple({match[1] for name in names if (match := _JOIN.match(name))})
    return frozenset(name for name in names if name.startswith(blocks) or _PREDICTION.search(name))


def shortest(words: list[str], suffixes: list[str]) -> tuple[str, ...]:
    """Return words as filters: with dots around a word if it is also a part of another word."""
    return tuple(
        f".{word}." if any(word in s and word not in s.split(".") for s in suffixes) else word
        for word in words
    )


def component_filters(stack: Stack) -> dict[str, tuple[str, ...]]:
    """Return the filters of the components of a block: substrings of the names of their tensors.

    The components are `cross_attention`, `attention`, `router`, `expert_0`, ..., `shared_expert`,
    `mlp` and `norm`. The filters must be tried in this order: a norm inside of the attention
    belongs to the attention; cross-attention to `attention`, too; router and experts to `mlp`, too.
    """
    suffixes = sorted({suffix for block in stack.blocks for suffix in block})
    words_of: dict[str, list[str]] = {
        name: [] for name in ("cross_attention", "attention", "router", "mlp", "norm")
    }
    for suffix in suffixes:
        component, word = component_of(suffix)
        if component and word not in words_of[component]:
            words_of[component].append(word)
    words_of["cross_attention"] = [word for word in words_of["attention"] if _CROSS.search(word)]
    words_of["router"] = _routers(suffixes)
    filters: dict[str, tuple[str, ...]] = {}
    for name, words in words_of.items():
        if name == "mlp":
            filters |= _experts(suffixes)
        if words:
            filters[name] = shortest(words, suffixes)
    return filters


def _experts(suffixes: list[str]) -> dict[str, tuple[str, ...]]:
    """Return the filters of single experts, in a block that has tensors of its own for each."""
    each = [match for suffix in suffixes if (match := _EXPERT.search(suffix))]
    numbers = sorted({int(match["number"]) for match in each if match["number"]})
    shared = tuple(sorted({match[0] for match in each if not match["number"]}))
    filters = {f"expert_{number}": (f".experts.{number}.",) for number in numbers}
    return {**filters, **({"shared_expert": shared} if shared else {})}


def _routers(suffixes: list[str]) -> list[str]:
    """Return the words for what sends tokens to experts, in a block that has experts."""
    if not any(".experts." in suffix for suffix in suffixes):
        return []
    of_mlp = (s for s in suffixes if component_of(s)[0] == "mlp" and "experts" not in s)
    words = dict.fromkeys(word for suffix in of_mlp for word in suffix.split(".")[:-1])
    return list(filter(_ROUTER.search, words))


def tensor_filters(stack: Stack) -> dict[str, tuple[str, ...]]:
    """Return the filter of each tensor of a block by a short name; a weight and its bias share one.

    The name is as many last words of the tensor's name as no other one has (`q_proj`, but
    `attn.c_proj` beside `mlp.c_proj`). The filters must be tried in order: `norm` fits `attn.norm`.
    """
    names: dict[str, list[str]] = {}
    for suffix in sorted({suffix for block in stack.blocks for suffix in block}):
        names.setdefault(_WEIGHT_OR_BIAS.sub("", suffix), []).append(stack.name(0, suffix))

    def fitting(word: str) -> list[str]:
        return [key for key, members in names.items() if any(word in name for name in members)]

    filters: dict[str, tuple[str, ...]] = {}
    last: dict[str, tuple[str, ...]] = {}  # those that fit others, too
    for key, members in names.items():
        words = key.split(".")
        ends = [".".join(words[start:]) for start in reversed(range(len(words)))]
        for end in (end for end in ends if not end[0].isdigit()):
            fits = [word for word in (end, f".{end}.") if all(word in name for name in members)]
            if unique := [word for word in fits if fitting(word) == [key]]:
                filters[end] = (unique[0],)
                break
        else:
            last[key] = (f".{key}",)
    return filters | dict(sorted(last.items(), key=lambda item: len(fitting(item[1][0]))))
