"""Gradient descent on the real genes of a genome, by Adam (Kingma and Ba 2015, arXiv 1412.6980).

A descent is a value: the genome and Adam's two moments. So the journal can keep it after some
steps, and a resumed search goes on from there::

    descent = Descent.at(genome)
    for step in range(steps):
        gradient = ...                                # of the loss at descent.genome
        descent = descent.step(gradient, genes, rate=0.05, steps=steps)
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pydantic import TypeAdapter

from evomerge.evaluation.inference.rows import Forms
from evomerge.recipe import Recipe
from evomerge.space.protocol import Gene, Genome

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


@dataclass(frozen=True, kw_only=True)
class Chunk:
    """A chunk of steps that a worker makes.

    Attributes:
        descent: where they begin; `recipe` is that of its genome.
        batches: for each step, the ids of its documents, by task.
        watched: the documents on which the loss is computed after the last step.
        rate, steps: see `Descent.step`.
        answers: task -> document -> the text that is learned in place of the reference answer.
        teachers: task -> the recipe of the model whose distribution is learned in place of it.
        lesson: for each task with a teacher, all documents that the descent learns or watches.
        weights: what each objective counts in the loss; empty: as the search file weighs them.
        forms: how generated answers are written; where no form is given, as the parents prefer.
    """

    descent: Descent
    recipe: Recipe
    batches: tuple[Mapping[str, tuple[int, ...]], ...]
    watched: Mapping[str, tuple[int, ...]]
    rate: float
    steps: int
    forms: Forms = field(default_factory=dict)
    answers: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    teachers: Mapping[str, Recipe] = field(default_factory=dict)
    lesson: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    weights: tuple[float, ...] = ()


@dataclass(frozen=True)
class Reached:
    """What came out of a chunk.

    Attributes:
        descent: where it ended.
        losses: the loss before each step, in nats a document; None for a step that failed.
        watched: the loss on the watched documents after the last step; None: it is not finite, or
            no documents are watched.
        forms: how generated answers are written, as the first chunks have found it.
    """

    descent: Descent
    losses: tuple[float | None, ...]
    watched: float | None
    forms: Forms = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    cpu_seconds: Mapping[str, float] = field(default_factory=dict, compare=False)
    peak: Mapping[str, int] = field(default_factory=dict, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain data for the journal, without times."""
        plain = asdict(self)
        return {name: plain[name] for name in ("descent", "losses", "watched", "forms")}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Reached:
        """Return what `to_json` wrote."""
        return TypeAdapter(cls).validate_python(data)
