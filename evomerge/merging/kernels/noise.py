"""Random numbers for the random merge methods, one for each element of a tensor.

The SHA-256 of (seed, parent, tensor name) is the key of a Philox4x32-10 generator (Salmon et al.
2011, doi 10.1145/2063384.2063405), so draws are the same bit for bit at once or piece by piece.

A draw is a 16-bit integer, uniform over -32768 .. 32767. An element stays if its draw is below a
threshold, so a probability is exact to 2^-16, and what stays at a low density also stays at a
higher one. 256 counters of the generator give 2048 draws: the low and high halves of the first
words of all 256 come first, then those of the second words, and so on.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled

STEPS = 1 << 16
"""Number of different values of a draw."""

LOWEST = -STEPS // 2
"""The smallest value of a draw."""

_COUNTERS = 256
_PER_BATCH = 8 * _COUNTERS

_State = tuple[np.uint64, np.uint64, np.uint64, np.uint64]
"""Four 32-bit numbers: the state of Philox between two rounds."""

_LOW, _HALF = np.uint64(0xFFFFFFFF), np.uint64(32)


@dataclass(frozen=True)
class Noise:
    """The random numbers of one tensor of one parent."""

    seed: int
    parent: str
    tensor: str

    def array(self, start: int, stop: int) -> Array:
        """Return the draws (int16) of elements `start` to `stop` (exclusive) of the flat tensor."""
        first, skipped = divmod(start, _PER_BATCH)
        words = np.empty((-(-stop // _PER_BATCH) - first, 4, _COUNTERS), dtype=np.uint32)
        philox(self._key, first * _COUNTERS, words)
        draws: Array = words.reshape(-1).astype("<u4", copy=False).view(np.int16)
        return draws[skipped : skipped + stop - start]

    @cached_property
    def _key(self) -> Array:
        text = json.dumps([self.seed, self.parent, self.tensor]).encode()
        return np.frombuffer(hashlib.sha256(text).digest()[:8], dtype="<u4").astype(np.uint64)


@compiled
def philox(key: Array, first: int, words: Array) -> None:
    """Write the output of Philox4x32-10 for consecutive counters from `first` (below 2^62) on.

    `key` has two 32-bit numbers as uint64; `words`, uint32, are (blocks, 4, counters of a block).
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
        # With an inner loop, the compiler would not use vector instructions.
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


def rounded_probability(probability: float) -> float:
    """Return the multiple of 2^-16 that is nearest to a probability.

    0 and 1 are returned only for a probability of (at most) 0 or (at least) 1, never by rounding.
    """
    if not 0 < probability < 1:
        return min(max(probability, 0.0), 1.0)
    return min(max(round(probability * STEPS), 1), STEPS - 1) / STEPS
