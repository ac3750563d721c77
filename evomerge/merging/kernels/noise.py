"""Random numbers for the random merge methods, one for each element of a tensor.

The SHA-256 of (seed, parent, tensor name) is the key of a Philox4x32-10 generator (Salmon et al.
2011, doi 10.1145/2063384.2063405), so draws are the same bit for bit at once or piece by piece.

A draw is a 16-bit integer, uniform over -32768 .. 32767. An element stays if its draw is below a
threshold, so a probability is exact to 2^-16, and what stays at a low density also stays at a
higher one. 256 counters of the generator give 2048 draws: the low and high halves of the first
words of all 256 come first, then those of the second words, and so on.

A task vector of which a random share stays is a `Drawn`, or a `DrawnByRank`.
"""

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from evomerge.merging.kernels.compiled import Array, compiled, widen
from evomerge.merging.kernels.passes import Sparse, TaskVector, spans

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
    p, q = key[0], key[1]
    for block in range(len(words)):
        w, x, y, z = words[block, 0], words[block, 1], words[block, 2], words[block, 3]
        for i in range(len(w)):
            counter = np.uint64(first + block * len(w) + i)
            state = counter & _LOW, counter >> _HALF, np.uint64(0), np.uint64(0)
            # With an inner loop, the compiler would not use vector instructions.
            state = _round(_round(state, p, q, 0), p, q, 1)
            state = _round(_round(state, p, q, 2), p, q, 3)
            state = _round(_round(state, p, q, 4), p, q, 5)
            state = _round(_round(state, p, q, 6), p, q, 7)
            w[i], x[i], y[i], z[i] = _round(_round(state, p, q, 8), p, q, 9)


@compiled
def _round(state: _State, p: np.uint64, q: np.uint64, number: int) -> _State:
    a, b, c, d = state
    left, right = a * np.uint64(0xD2511F53), c * np.uint64(0xCD9E8D57)
    one = (p + np.uint64(number) * np.uint64(0x9E3779B9)) & _LOW
    two = (q + np.uint64(number) * np.uint64(0xBB67AE85)) & _LOW
    return (right >> _HALF) ^ b ^ one, right & _LOW, (left >> _HALF) ^ d ^ two, left & _LOW


class Drawn(TaskVector):
    """A task vector of which each element stays with one probability."""

    _draws: Array | None = None

    def keep(self) -> None:
        """Draw the random numbers."""
        self._draws = self.draws(slice(0, self.size))

    def select(self, rescale: bool, *, density: float) -> Sparse:
        """Each element stays with the probability `density` (DARE); `rescale` divides by it."""
        steps = round(density * STEPS)
        if steps in (0, STEPS):
            return (1.0, self.load) if steps else None
        limit = np.int32(LOWEST + steps)

        def write(span: slice, out: Array) -> None:
            _load_drawn(self.source[span], self.base[span], self.draws(span), limit, out)

        return (STEPS / steps if rescale else 1.0), write

    def draws(self, span: slice) -> Array:
        """Return the random numbers (int16) of a span, kept in memory or drawn again."""
        if self._draws is not None:
            return self._draws[span]
        assert self.noise is not None
        draws: Array = self.noise.array(span.start, span.stop)
        return draws


@compiled
def _load_drawn(source: Array, base: Array, draws: Array, limit: np.int32, out: Array) -> None:
    """Write the elements of a task vector whose draw is below `limit`, 0 for others; NaN stays."""
    for i in range(len(out)):
        stays = np.float32(1) if draws[i] < limit else np.float32(0)
        out[i] = (widen(source[i]) - widen(base[i])) * stays


class DrawnByRank(Drawn):
    """A task vector of which large elements of a row stay with a higher probability.

    For the ranks, magnitudes are compared to 9 significant bits; among equal ones the higher index
    ranks higher.
    """

    by_rows = True
    _cached: tuple[Array, Array] | None = None

    def keep(self) -> None:
        """Draw the random numbers, and rank the magnitudes."""
        super().keep()
        parts = [self._ranks(span) for span in spans(self.size, row_length=self.row_length)]
        ranks, mean_ranks = (np.concatenate(them) for them in zip(*parts, strict=True))
        self._cached = ranks, mean_ranks

    def select(self, rescale: bool, *, density: float, epsilon: float = 0.0) -> Sparse:
        """Elements stay with a probability that rises with the rank in their row (DELLA).

        It is from density - epsilon for the smallest element to density + epsilon for the largest.
        If one of these is outside of 0 .. 1, a smaller epsilon is used, so that the mean is still
        the density. `rescale`: each row is multiplied by a factor of its own, which keeps the
        expected L1 norm.
        """
        if density in (0, 1):
            return (1.0, self.load) if density else None
        epsilon = min(epsilon, density, 1 - density)
        least, spread = np.float32(density - epsilon), np.float32(2 * epsilon)
        line = spread, np.float32(LOWEST + density * STEPS)

        def write(span: slice, out: Array) -> None:
            ranks, mean_ranks = self._ranks(span)
            factors = 1 / (least + spread * mean_ranks) if rescale else np.ones_like(mean_ranks)
            task_vector = self.source[span], self.base[span]
            _load_ranked(*task_vector, self.draws(span), ranks, line, factors, out)

        return 1.0, write

    def _ranks(self, span: slice) -> tuple[Array, Array]:
        """Return the rank of each element of a span (flat), and the mean rank of each row."""
        row = self.row_length
        if self._cached is not None:
            ranks, mean_ranks = self._cached
            return ranks[span], mean_ranks[span.start // row : span.stop // row]
        ranks, mean_ranks = row_ranks(self.magnitudes(span).reshape(-1, row))
        return ranks.reshape(-1), mean_ranks


@compiled
def _load_ranked(
    source: Array,
    base: Array,
    draws: Array,
    ranks: Array,
    line: tuple[np.float32, np.float32],
    factors: Array,
    out: Array,
) -> None:
    """Write the elements of a task vector whose draw is below rise * rank + middle (`line`).

    They are multiplied by the factor of their row; the others become 0 (NaN stays NaN).
    """
    (rise, middle), length = line, len(out) // len(factors)
    for row in range(len(factors)):
        part = slice(row * length, (row + 1) * length)
        end, start, draw, rank = source[part], base[part], draws[part], ranks[part]
        factor, target = factors[row], out[part]
        for i in range(length):
            bound = np.float32(rank[i]) * rise + middle
            stays = np.float32(1) if np.float32(draw[i]) < bound else np.float32(0)
            target[i] = (widen(end[i]) - widen(start[i])) * stays * factor


def row_ranks(magnitudes: Array) -> tuple[Array, Array]:
    """Return the rank of each element of a float32 matrix in its row, and each row's mean rank.

    Ranks are int16, from -32768 (smallest) to 32767 (largest). A mean rank is that of the row's
    ranks, weighted by magnitude and mapped to 0 .. 1 (1/2 for a row of zeros).
    """
    width = magnitudes.shape[1]
    kind = np.dtype(np.uint32 if width <= 1 << 16 else np.uint64)
    # Magnitude in the upper half of a key, column in the lower half.
    keys: Array = (magnitudes.view(np.uint32) >> 15).astype(kind)
    keys <<= 4 * kind.itemsize
    keys |= np.arange(width, dtype=kind)
    keys.sort(axis=1)
    codes = np.zeros(1, dtype=np.int16)  # the rank of each place of a sorted row
    if width > 1:
        steps = np.arange(width, dtype=np.float64) * ((STEPS - 1) / (width - 1))
        codes = (np.round(steps) + LOWEST).astype(np.int16)
    ranks = np.empty(magnitudes.shape, dtype=np.int16)
    mean_ranks = np.empty(len(magnitudes), dtype=np.float32)
    _rank(magnitudes, keys, codes, ranks, mean_ranks)
    return ranks, mean_ranks


@compiled
def _rank(magnitudes: Array, order: Array, codes: Array, ranks: Array, mean_ranks: Array) -> None:
    mask = order.dtype.type((1 << (order.itemsize * 4)) - 1)
    for row in range(len(magnitudes)):
        whole = weighted = 0.0
        for place in range(len(codes)):
            column = order[row, place] & mask
            ranks[row, column] = codes[place]
            magnitude = np.float64(magnitudes[row, column])
            whole += magnitude
            weighted += magnitude * codes[place]
        mean = (weighted / whole - LOWEST) / (STEPS - 1) if whole > 0 else 0.5
        mean_ranks[row] = np.float32(mean)
