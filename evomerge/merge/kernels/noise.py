"""Random fields that depend on what they are for, never on when they are drawn.

Every tensor of every parent has its own field, keyed by (seed, parent, tensor name): the SHA-256
of the three gives a Philox4x32-10 key (Salmon et al. 2011, doi 10.1145/2063384.2063405, "Parallel
random numbers: as easy as 1, 2, 3"). Order of work, threads, and whether a field is drawn whole or
piece by piece cannot change a bit of it.

Element i of a field is the 16-bit number `lane[i]`, uniform over -32768 .. 32767. So a probability
is exact to 2^-16, and as the same lane is compared with every threshold, what a low density keeps
a higher one keeps too. 2048 lanes come from 256 counters: first the low and high halves of the
first words of them all, then of the second words, and so on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from evomerge.merge.kernels.compiled import Array, compiled

STEPS = 1 << 16
"""Number of values that a lane takes."""

LOWEST = -STEPS // 2
"""The lowest of them."""

_COUNTERS = 256
_LANES = 8 * _COUNTERS

_State = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
"""Four 32-bit numbers."""

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@dataclass(frozen=True)
class Noise:
    """The random field of one tensor of one parent.

    Attributes:
        seed: the recipe's seed.
        parent: the parent's reference, as in the recipe.
        tensor: the tensor's name in the parent.
    """

    seed: int
    parent: str
    tensor: str

    def lanes(self, start: int, stop: int) -> Tensor:
        """Return elements `start` to `stop` of the field, int16 on the CPU."""
        first, skipped = divmod(start, _LANES)
        words = np.empty((-(-stop // _LANES) - first, 4, _COUNTERS), dtype=np.uint32)
        philox(self._key, first * _COUNTERS, words)
        lanes = words.reshape(-1).astype("<u4", copy=False).view(np.int16)
        return torch.from_numpy(lanes[skipped : skipped + stop - start])

    @cached_property
    def _key(self) -> Array:
        text = json.dumps([self.seed, self.parent, self.tensor]).encode()
        return np.frombuffer(hashlib.sha256(text).digest()[:8], dtype="<u4").astype(np.uint64)


@compiled
def philox(key: Array, first: int, words: Array) -> None:
    """Write the words that Philox4x32-10 gives for consecutive counters.

    Args:
        key: two 32-bit numbers as uint64.
        first: the first counter, below 2^62.
        words: uint32 of shape (n, 4, m) for n m counters: block, word, counter of the block.
    """
    for block in range(len(words)):
        part = words[block]
        _draw(key, np.uint64(first + block * part.shape[1]), part[0], part[1], part[2], part[3])


@compiled
def _draw(key: Array, first: np.uint64, w: Array, x: Array, y: Array, z: Array) -> None:
    p, q = key[0], key[1]
    for i in range(len(w)):
        counter = first + np.uint64(i)
        state = counter & _LOW, counter >> _HALF, np.uint64(0), np.uint64(0)
        # Ten rounds written out: a loop here would keep this one from the vector registers.
        state = _round(state, p, q, 0)
        state = _round(state, p, q, 1)
        state = _round(state, p, q, 2)
        state = _round(state, p, q, 3)
        state = _round(state, p, q, 4)
        state = _round(state, p, q, 5)
        state = _round(state, p, q, 6)
        state = _round(state, p, q, 7)
        state = _round(state, p, q, 8)
        w[i], x[i], y[i], z[i] = _round(state, p, q, 9)


@compiled
def _round(state: _State, p: np.uint64, q: np.uint64, number: int) -> _State:
    a, b, c, d = state
    left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
    one = (p + np.uint64(number) * np.uint64(0x9E3779B9)) & _LOW
    two = (q + np.uint64(number) * np.uint64(0xBB67AE85)) & _LOW
    return (right >> _HALF) ^ b ^ one, right & _LOW, (left >> _HALF) ^ d ^ two, left & _LOW


def chance(probability: float) -> float:
    """Return the multiple of 2^-16 that stands for a probability; never 0 or 1 by rounding."""
    if not 0 < probability < 1:
        return min(max(probability, 0.0), 1.0)
    return min(max(round(probability * STEPS), 1), STEPS - 1) / STEPS
