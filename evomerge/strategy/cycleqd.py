"""CycleQD, quality diversity whose objectives take turns (Kuroki et al. 2025, arXiv 2410.14735).

There is an archive for each objective (see `evomerge.strategy.archive`). Generation by generation,
the next archive gives two elites, drawn by elite sampling. Their task vectors are averaged, with
weights near 1. A mutation adds to each matrix random shares of the singular components of the
expert, the parent of the search that is best at the archive's objective. A scored candidate is
added to all archives in which its cell is empty or its quality is better.

This follows the authors' published code (github.com/SakanaAI/CycleQD).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from evomerge.scores import Constraint, Objective, Scores
from evomerge.space.task_vectors import TaskVectorSpace
from evomerge.strategy.archive import Archive, Grid, finite_values
from evomerge.strategy.mating import MatingStrategy
from evomerge.strategy.protocol import Origin


@dataclass(frozen=True)
class CycleQDSetting:
    """How children are made.

    Attributes:
        sigma: standard deviation of the weights of the mates, whose mean is 1.
        mutation: largest share of a singular component that a mutation adds; 0: no mutation.
        aggregate: each proposal whose count is a multiple of this merges the best elites of all
            archives; 0: none does.
        generation: number of candidates that are proposed before outcomes are told.
    """

    sigma: float = 0.01
    mutation: float = 0.1
    aggregate: int = 0
    generation: int = 1


class CycleQDStrategy(MatingStrategy):
    """CycleQD as a strategy.

    Origins are `{"archive": "zoo_l2/exact_match", "mates": [4, 7], "weights": [1.01, 0.98],
    "expert": "zoo:maths", "mutation": 0.1, "seed": 93}`; the last three are left out where there
    is no mutation.

    Args:
        space: makes the recipes of children.
        objectives: two or more objectives; each has an archive.
        constraints: a candidate that breaks one is in no archive.
        grid: how scores are divided into bins.
        setting: how children are made.
        seed: seed of all random numbers, 0 or more.
    """

    def __init__(
        self,
        space: TaskVectorSpace,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        grid: Grid,
        setting: CycleQDSetting,
        seed: int,
    ) -> None:
        super().__init__(space, setting.generation, seed)
        self.setting = setting
        self.archives = [Archive(grid, index) for index in range(len(objectives))]
        self._objectives, self._constraints = objectives, constraints
        self._parents = space.parents
        self._values: dict[str, tuple[float, ...]] = {}
        """The values of each parent that was scored, by reference."""

    def _add(self, number: int, scores: Scores) -> None:
        """Add a scored candidate to the archives where it is an elite."""
        values = finite_values(self._objectives, self._constraints, scores)
        if values is None:
            return
        for archive in self.archives:
            archive.add(number, values)
        if number in self._baselines:
            self._values[self._baselines[number]] = values

    def _child(self, random: np.random.Generator) -> Origin:
        """Return the origin of a merge of the best elites if it is its turn, else of two elites."""
        turn = self._asked // self.generation % len(self.archives)
        return self._aggregate() or self._mutated(random, turn)

    def _mutated(self, random: np.random.Generator, turn: int) -> Origin:
        """Return the origin of a child of two elites, or of baselines where elites are missing."""
        archive = self.archives[turn]
        mates = archive.draw(random, 2) if archive.elites else []
        others = [number for number in self._baselines if number not in mates]
        missing = random.permutation(len(others))[: 2 - len(mates)]
        mates += [others[index] for index in missing]
        origin: dict[str, object] = {
            "archive": self._objectives[turn].key,
            "mates": mates,
            "weights": random.normal(1.0, self.setting.sigma, len(mates)).tolist(),
        }
        if self.setting.mutation:
            origin |= {
                "expert": self._expert(turn),
                "mutation": self.setting.mutation,
                "seed": int(random.integers(1 << 31)),
            }
        return origin

    def _expert(self, turn: int) -> str:
        """Return the parent with the best score on an objective, the first one of equals."""
        scored = [parent for parent in self._parents if parent in self._values]
        if not scored:
            return self._parents[turn % len(self._parents)]
        return max(scored, key=lambda parent: self._values[parent][turn])

    def _aggregate(self) -> Origin | None:
        """Return the origin of a merge of the best elites; None if it is not its turn."""
        every = self.setting.aggregate
        if not every or (self._asked + 1) % every or not all(a.elites for a in self.archives):
            return None
        best = {elite.number: elite.quality for elite in (a.best() for a in self.archives)}
        if len(best) < 2:
            return None
        shares = np.exp(np.array(list(best.values())) - max(best.values()))
        return {
            "archive": "all",
            "mates": list(best),
            "weights": (shares / shares.sum()).tolist(),
        }
