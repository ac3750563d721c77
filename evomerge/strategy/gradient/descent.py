"""Gradient descent on the real genes of a genome, by Adam (Kingma and Ba 2015, arXiv 1412.6980).

A descent is a value: the genome and Adam's two moments. So the journal can keep it after a segment,
which is some steps that one worker makes, and a resumed search goes on from there::

    descent = Descent.at(genome)
    for step in range(steps):
        gradient = ...                                # of the loss at descent.genome
        descent = descent.step(gradient, genes, rate=0.05, steps=steps)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from evomerge.space.protocol import Gene, Genome

STEPS = 60  # of a descent, if the search file does not say it
BATCH = 16  # documents of a step, likewise
RATE = 0.03  # length of the first steps, likewise
SEGMENT = 10  # steps that one worker makes, between two candidates of a descent

BETAS = (0.9, 0.99)
"""Decay of the moments. A descent has tens of steps, so the second one forgets faster than with the
usual 0.999."""

LAST_RATE = 0.1
"""The rate falls along half a cosine from 1 to this share."""

_EPSILON = 1e-8


@dataclass(frozen=True)
class Descent:
    """The state of a descent: its genome, Adam's moments, and the number of steps that were made.

    `brake` is a factor on the rate; each step that fails halves it.
    """

    genome: Genome
    first: tuple[float, ...]
    second: tuple[float, ...]
    done: int = 0
    brake: float = 1.0

    @classmethod
    def at(cls, genome: Sequence[float]) -> Descent:
        """Return a descent that begins at a genome."""
        nothing = (0.0,) * len(genome)
        return cls(tuple(map(float, genome)), nothing, nothing)

    def step(
        self, gradient: Sequence[float], genes: Sequence[Gene], *, rate: float, steps: int
    ) -> Descent:
        """Return the descent after one step; genes that are not real stay as they are.

        Args:
            gradient: derivative of the loss by each gene.
            rate: length of a first step, as a share of the gene's range.
            steps: number of steps of the whole descent, over which the rate falls.
        """
        done, (beta, gamma) = self.done + 1, BETAS
        fall = math.cos(math.pi * min(1.0, self.done / steps)) / 2 + 0.5
        now = rate * self.brake * (LAST_RATE + (1 - LAST_RATE) * fall)
        genome, first, second = [], [], []
        for gene, value, m, v, g in zip(
            genes, self.genome, self.first, self.second, gradient, strict=True
        ):
            m, v = beta * m + (1 - beta) * g, gamma * v + (1 - gamma) * g * g
            first.append(m)
            second.append(v)
            if gene.kind == "real":
                size = math.sqrt(v / (1 - gamma**done)) + _EPSILON
                moved = value - now * (gene.high - gene.low) * m / (1 - beta**done) / size
                value = min(gene.high, max(gene.low, moved))
            genome.append(value)
        return Descent(tuple(genome), tuple(first), tuple(second), done, self.brake)

    def failed_step(self) -> Descent:
        """Return the descent after a step without a finite loss: where it was, but slower."""
        return replace(self, done=self.done + 1, brake=self.brake / 2)
