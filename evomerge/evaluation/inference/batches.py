"""Batches of rows with little padding within a device's limits, and what a pass keeps of one.

A backward pass needs the activations of the forward pass. With checkpointing (Chen et al. 2016,
arXiv 1604.06174), only the inputs of the layers are kept, and each layer is computed once more: a
third more time, and the same bits.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, replace
from typing import Any, Literal, Self

from evomerge.compat.transformers import checkpointing_layers
from evomerge.device import device_memory, total_memory

_CPU_MOST, _CPU_GENERATED = 1024, 8192  # tokens; larger batches are hardly faster
_LOGIT = 8  # bytes of a logit on a CPU: itself and its log-softmax
_SHARE = 0.25  # share of a GPU's memory for a batch, in addition to the weights
_GPU_LEAST, _GPU_MOST = 256, 2**17  # tokens
_GPU_WIDER = 4  # batches that generate hold 4 x the tokens: most steps read one token a row
_CPU_PASS, _GPU_PASS = 48, 512  # tokens that cost as much as starting a pass: it reads all weights
MASKED = 1.1  # cost of a token in a batch whose attention needs a mask; 1 without
_KEPT = 0.5  # share of a device's memory for activations; if more is needed, fewer are kept


@dataclass(frozen=True)
class Batching:
    """The size limits of batches, and how to form them.

    Attributes:
        tokens: maximum tokens in a batch, padding included; a longer row is a batch by itself.
        rows: maximum rows in a batch, None for no limit.
        overhead: fixed cost of starting one more batch, expressed in padded tokens.
        generated: maximum tokens in a batch that generates, with the new ones.
    """

    tokens: int
    rows: int | None
    _: KW_ONLY
    overhead: int
    generated: int

    def cut(self, lengths: Sequence[int], padding: float = 1.0) -> list[list[int]]:
        """Return batches of indices into `lengths`, longest rows first.

        Rows are sorted by length and split where the total cost is lowest: a batch costs its number
        of rows x its longest row (x `padding`, if they differ in length), plus `overhead`.
        """
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        cost = [0.0] + [float("inf")] * len(order)
        origin = [0] * (len(order) + 1)
        for end in range(1, len(order) + 1):
            for start in range(end - 1, -1, -1):
                longest, rows = lengths[order[start]], end - start
                area = longest * rows
                if rows > 1 and (area > self.tokens or (self.rows and rows > self.rows)):
                    break
                factor = 1.0 if lengths[order[end - 1]] == longest else padding
                total = cost[start] + factor * area + self.overhead
                if total < cost[end]:
                    cost[end], origin[end] = total, start
        cuts = [len(order)]
        while cuts[-1]:
            cuts.append(origin[cuts[-1]])
        return [order[a:b] for a, b in itertools.pairwise(reversed(cuts))]

    def halved(self) -> Self:
        """Return the same limits with half as many tokens and rows."""
        rows = self.rows and max(1, self.rows // 2)
        return replace(self, tokens=self.tokens // 2, rows=rows, generated=self.generated // 2)


def batching(model: Any, batch_size: int | Literal["auto"]) -> Batching:
    """Return the size limits of batches on the model's device.

    On a GPU they depend on the model's shape and the total memory, not on the free memory, so that
    a resumed search makes the same batches.
    """
    rows = None if batch_size == "auto" else batch_size
    if model.device.type == "cpu":
        return Batching(_CPU_MOST, rows, overhead=_CPU_PASS, generated=_CPU_GENERATED)
    text = model.config.get_text_config()  # it knows by which names a kind of model has sizes
    names = ("hidden_size", "num_hidden_layers", "vocab_size")
    config = text.to_dict() | {name: getattr(text, name) for name in names}
    total = device_memory(str(model.device)) or 8 * 2**30
    activations, cached, vocabulary = _token_bytes(config, model.dtype.itemsize)
    fitting = int(total * _SHARE / (activations + cached + 12 * vocabulary + 1))
    tokens = max(_GPU_LEAST, min(_GPU_MOST, fitting))
    return Batching(tokens, rows, overhead=_GPU_PASS, generated=_GPU_WIDER * tokens)


def largest_batch(config: Mapping[str, Any], itemsize: int) -> int:
    """Return about how many bytes the largest batch takes on a CPU that is scored or generated.

    `config` has the settings of the language model, as config.json; `itemsize` is the bytes of a
    number in the model's dtype.
    """
    activations, cached, vocabulary = _token_bytes(config, itemsize)
    scored = _CPU_MOST * (activations + _LOGIT * vocabulary)
    return max(scored, _CPU_GENERATED * (activations + cached))


def _token_bytes(config: Mapping[str, Any], itemsize: int) -> tuple[int, int, int]:
    """Return about how many bytes a token takes in activations, in keys and values; its logits."""
    width, inner, layers = _shape(config)
    vocabulary = int(config.get("vocab_size") or 0)
    heads = int(config.get("num_attention_heads") or config.get("n_head") or 1)
    cached = 2 * layers * width * int(config.get("num_key_value_heads") or heads) // heads
    return itemsize * (8 * width + 3 * inner), itemsize * cached, vocabulary


def _shape(config: Mapping[str, Any]) -> tuple[int, int, int]:
    """Return the model's width, that of the inner part of its layers, and their number."""
    width = int(config.get("hidden_size") or config.get("n_embd") or 0)
    inner = int(config.get("intermediate_size") or config.get("n_inner") or 4 * width)
    return width, inner, int(config.get("num_hidden_layers") or config.get("n_layer") or 0)


def kept_bytes(config: Mapping[str, Any], itemsize: int) -> int:
    """Return about how many bytes a backward pass keeps of each token, without logits.

    For each layer these are four states of the width of its inner part and seven of the model's
    width, and what its two norms keep in float32, as measured with Llama-like models.
    """
    width, inner, layers = _shape(config)
    return layers * (itemsize * (4 * inner + 7 * width) + 8 * width)


def needs_checkpointing(model: Any, tokens: int) -> bool:
    """Whether the activations of a batch take too much of the device's memory."""
    config = model.config.get_text_config().to_dict()
    memory = device_memory(str(model.device)) or total_memory()
    return tokens * kept_bytes(config, model.dtype.itemsize) > _KEPT * memory


@contextmanager
def checkpointing(model: Any) -> Iterator[None]:
    """Keep only the inputs of layers in the block; a model without such layers stays as it is.

    Only the layers are in training mode, not what is in them, so that nothing is dropped out.
    """
    layers = checkpointing_layers(model)
    if not layers:
        yield
        return
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
        model.gradient_checkpointing_disable()
