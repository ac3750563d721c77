"""A landscape of fitness that the records of real searches have taught a neural network."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPRegressor

from choosing.records import Record
from choosing.worlds import SPACES, Tasks, make_world
from evomerge.space.protocol import Gene, Genome, Space

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Landscape:
    """The predicted fitness of every genome of a space.

    Attributes:
        world: name of the space.
        space: its genes and baselines.
        network: genome in units of its range -> fitness.
        most: the best recorded fitness; no prediction is above it.
        about: the number of recorded candidates and the error on searches that were left out.
    """

    world: str
    space: Space
    network: MLPRegressor
    most: float
    about: str

    def value(self, genome: Genome) -> float:
        """Return the fitness without noise, in [0, 1]."""
        predicted = self.network.predict(_scaled([genome], self.space.genes))[0]
        return float(np.clip(predicted, 0.0, self.most))

    def documents(self, seed: int) -> Documents:
        """Return simulated documents for a search."""
        return Documents(self, np.random.default_rng(seed))


@dataclass(frozen=True)
class Documents:
    """Simulated documents: each of them is answered with the probability that is the fitness.

    Attributes:
        landscape: the fitness.
        random: draws the answers.
    """

    landscape: Landscape
    random: np.random.Generator

    def search(self, genome: Genome) -> float:
        """Return the share of the search documents that are answered."""
        return self._share(genome, self._tasks.search)

    def validation(self, genome: Genome) -> float:
        """Return the share of the validation documents that are answered."""
        return self._share(genome, self._tasks.validation)

    @property
    def _tasks(self) -> Tasks:
        return SPACES[self.landscape.world].tasks

    def _share(self, genome: Genome, of_each_task: int) -> float:
        count = of_each_task * len(self._tasks.objectives)
        return float(self.random.binomial(count, self.landscape.value(genome))) / count


def learn(world_name: str, records: Sequence[Record]) -> Landscape:
    """Return the landscape of a space.

    Args:
        world_name: one of `choosing.worlds.SPACES`.
        records: searches of this space with two seeds or more. Those of the last seed measure the
            error of a network that has not seen them; the landscape learns from all.
    """
    with make_world(world_name, seed=0) as world:
        space = world.space
    places = _scaled([genome for one in records for genome in one.found.genomes], space.genes)
    fitness = np.array([value or 0.0 for one in records for value in one.found.values])
    seeds = np.array([one.seed for one in records for _ in one.found.values])
    out = seeds == max(seeds)
    predicted = _fit(places[~out], fitness[~out]).predict(places[out])
    error = float(np.sqrt(np.mean((predicted - fitness[out]) ** 2)))
    order = float(spearmanr(predicted, fitness[out]).statistic)
    about = f"{len(fitness):,} candidates; error {100 * error:.1f} points, order {order:.2f}"
    most = float(max(fitness))
    return Landscape(world_name, space, _fit(places, fitness), most, about)


def _fit(places: Points, fitness: Points) -> MLPRegressor:
    network = MLPRegressor(
        hidden_layer_sizes=(128, 128), alpha=1e-3, early_stopping=True, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return network.fit(places, fitness)


def _scaled(genomes: Sequence[Genome], genes: Sequence[Gene]) -> Points:
    low = np.array([gene.low for gene in genes], dtype=float)
    high = np.array([gene.high for gene in genes], dtype=float)
    return (np.array(genomes, dtype=float) - low) / (high - low)
