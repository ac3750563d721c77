"""Random fields that depend on what they are for, never on when they are drawn.

Every tensor of every parent has its own field, keyed by (seed, parent, tensor name): the SHA-256
of the three gives a Philox4x64-10 key (Salmon et al. 2011, "Parallel random numbers: as easy as
1, 2, 3"), whose raw stream numpy guarantees never to change. Order of work, threads, and whether
a field is drawn whole or piece by piece cannot change a bit of it.

Element i of a field is the 16-bit number `lane[i]`, uniform over -32768 .. 32767: bits 16j to
16j+15 of word w of the stream, where i = 4w + j. So a probability is exact to 2^-16.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STEPS = 65536
"""Number of values that a lane takes."""

_WORDS_A_COUNTER = 4
_LANES_A_WORD = 4


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
        """Return elements `start` (a multiple of 16) to `stop` of the field, int16."""
        if start % (_WORDS_A_COUNTER * _LANES_A_WORD):
            raise ValueError(f"start is {start}; it must be a multiple of 16")
        generator = np.random.Philox(
            key=self._key(), counter=start // (_WORDS_A_COUNTER * _LANES_A_WORD)
        )
        words = generator.random_raw(-(-(stop - start) // _LANES_A_WORD))
        return torch.from_numpy(words.astype("<u8", copy=False).view("<i2")[: stop - start])

    def _key(self) -> int:
        text = json.dumps([self.seed, self.parent, self.tensor]).encode()
        return int.from_bytes(hashlib.sha256(text).digest()[:16], "little")


def threshold(probability: float) -> int:
    """Return t such that `lane < t` has `probability`, to 2^-16 (never 0 by rounding, nor 1)."""
    if probability <= 0:
        steps = 0
    elif probability >= 1:
        steps = STEPS
    else:
        steps = min(max(round(probability * STEPS), 1), STEPS - 1)
    return steps - STEPS // 2
