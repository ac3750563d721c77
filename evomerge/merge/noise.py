"""Random fields that depend on what they are for, never on when they are drawn.

Every tensor of every parent has its own field, keyed by (seed, parent, tensor name): the SHA-256
of the three gives a Philox4x64-10 key (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), whose raw stream numpy guarantees never to change. Order of work, threads, and whether
a field is drawn whole or piece by piece cannot change a bit of it.

Element i of a field is the 16-bit number `lane[i]`, uniform over -32768 .. 32767: bits 16j to
16j+15 of word w of the stream, where i = 4w + j. So a probability is exact to 2^-16, and as the
same lane is compared with every threshold, what a low density keeps a higher one keeps too.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STEPS = 1 << 16
"""Number of values that a lane takes."""

LOWEST = -STEPS // 2
"""The lowest of them."""

_LANES_A_WORD = 4
_LANES_A_COUNT = 16


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
        count, skipped = divmod(start, _LANES_A_COUNT)
        words = -(-(stop - start + skipped) // _LANES_A_WORD)
        stream = np.random.Philox(key=self._key(), counter=count).random_raw(words)
        lanes = stream.astype("<u8", copy=False).view("<i2").astype(np.int16, copy=False)
        return torch.from_numpy(lanes[skipped : skipped + stop - start])

    def _key(self) -> int:
        text = json.dumps([self.seed, self.parent, self.tensor]).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")


def chance(probability: float) -> float:
    """Return the multiple of 2^-16 that stands for a probability; never 0 or 1 by rounding."""
    if not 0 < probability < 1:
        return min(max(probability, 0.0), 1.0)
    return min(max(round(probability * STEPS), 1), STEPS - 1) / STEPS
