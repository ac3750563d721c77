"""Grouping rows of different lengths into batches with little padding, within a device's limits."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch

_CACHE = 24 * 2**20  # bytes of activations that fit into the caches of a CPU
_CPU_LEAST, _CPU_MOST = 256, 1024  # tokens
_SHARE = 0.25  # share of a GPU's memory for a batch, in addition to the weights
_GPU_LEAST, _GPU_MOST = 256, 2**17  # tokens
_CPU_PASS, _GPU_PASS = 48, 512  # tokens that cost about as much as starting a forward pass


@dataclass(frozen=True)
class Batching:
    """The size limits of batches, and how to form them.

    Attributes:
        tokens: maximum tokens in a batch, padding included; a longer row is a batch by itself.
        rows: maximum rows in a batch, None for no limit.
        overhead: fixed cost of starting one more batch, expressed in padded tokens.
    """

    tokens: int
    rows: int | None
    overhead: int

    def cut(self, lengths: Sequence[int]) -> list[list[int]]:
        """Return batches of indices into `lengths`, longest rows first.

        Rows are sorted by length and split where the total cost is lowest: the cost of a batch is
        its number of rows x its longest row, plus `overhead`.
        """
        order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
        cost = [0.0] + [float("inf")] * len(order)
        origin = [0] * (len(order) + 1)
        for end in range(1, len(order) + 1):
            for start in range(end - 1, -1, -1):
                rows, area = end - start, lengths[order[start]] * (end - start)
                if rows > 1 and (area > self.tokens or (self.rows and rows > self.rows)):
                    break
                if cost[start] + area + self.overhead < cost[end]:
                    cost[end], origin[end] = cost[start] + area + self.overhead, start
        cuts = [len(order)]
        while cuts[-1]:
            cuts.append(origin[cuts[-1]])
        return [order[a:b] for a, b in itertools.pairwise(reversed(cuts))]

    @property
    def is_least(self) -> bool:
        """Whether batches cannot be smaller than with these limits."""
        return self.rows == 1 or self.tokens <= 1

    def halved(self) -> Batching:
        """Return the same limits with half as many tokens and rows."""
        return replace(self, tokens=self.tokens // 2, rows=self.rows and max(1, self.rows // 2))


def batching(model: Any, batch_size: int | Literal["auto"]) -> Batching:
    """Return the size limits of batches on the model's device.

    They depend on the model's shape and the device's total memory, not on its free memory, so that
    a resumed search makes the same batches.
    """
    rows = None if batch_size == "auto" else batch_size
    config = model.config.get_text_config()
    width = int(config.hidden_size)
    inner = int(getattr(config, "intermediate_size", None) or 4 * width)
    activations = model.dtype.itemsize * (8 * width + 3 * inner)
    overhead = pass_overhead(model.device.type)
    if model.device.type == "cpu":
        tokens = max(_CPU_LEAST, min(_CPU_MOST, _CACHE // activations))
        return Batching(tokens, rows, overhead)
    kept = model.dtype.itemsize * 2 * width * int(config.num_hidden_layers)
    total = 8 * 2**30
    if model.device.type == "cuda":
        total = torch.cuda.get_device_properties(model.device).total_memory
    per_token = activations + kept + 12 * int(config.vocab_size)
    tokens = max(_GPU_LEAST, min(_GPU_MOST, int(total * _SHARE / per_token)))
    return Batching(tokens, rows, overhead)


def pass_overhead(device: str) -> int:
    """Return how many tokens cost about as much time as starting one more forward pass."""
    return _CPU_PASS if device == "cpu" else _GPU_PASS
