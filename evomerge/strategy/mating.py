"""What strategies that merge earlier candidates have in common: all but how mates are chosen."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from evomerge.scores import Outcome, Scores
from evomerge.space.mates import MateSpace
from evomerge.strategy.lineage import Lineage
from evomerge.strategy.protocol import Origin, Proposal


class MatingStrategy(ABC):
    """A strategy whose candidates are merges of earlier candidates.

    Random numbers depend on the seed and the candidate's number only.

    Args:
        space: makes the recipes of children.
        generation: number of candidates that are proposed before outcomes are told.
        seed: seed of all random numbers, 0 or more.
    """

    def __init__(self, space: MateSpace, generation: int, seed: int) -> None:
        self.generation, self.seed = generation, seed
        self.lineage = Lineage(space)
        self._labels = space.baselines().keys()
        self._baselines: dict[int, str] = {}
        self._asked = 0

    @property
    def left(self) -> int:
        """Number of proposals that the current generation still lacks."""
        return self.generation - self._asked % self.generation

    def add_baseline(self, number: int, label: str) -> Origin:
        """Add a baseline; it can become a mate once its scores are told."""
        self.repeat(number, label, {})
        return {}

    def ask(self, number: int) -> Proposal:
        """Propose a child of earlier candidates."""
        origin = self._child(np.random.default_rng([self.seed, number]))
        self.repeat(number, None, origin)
        return Proposal(self.lineage.recipe(number), origin)

    def repeat(self, number: int, label: str | None, origin: Origin) -> None:
        """Note a candidate. Nothing is drawn: the recorded origin counts.

        Averages that are tried for the greedy soup are not of this strategy; it ignores them.

        Raises:
            ValueError: this is no origin of a child of earlier candidates.
        """
        if label not in self._labels and "mates" not in origin:
            return
        self.lineage.add(number, label, origin)
        if label is None:
            self._asked += 1
        else:
            self._baselines[number] = label

    def tell(self, number: int, outcome: Outcome) -> None:
        """Let a scored candidate of this strategy become a mate."""
        if number in self.lineage and isinstance(outcome, Scores):
            self._add(number, outcome)

    @abstractmethod
    def _child(self, random: np.random.Generator) -> Origin:
        """Return the origin of a new child: `mates`, and how they are merged."""

    @abstractmethod
    def _add(self, number: int, scores: Scores) -> None:
        """Add a scored candidate to those that mates are drawn from, if it is good enough."""
