"""The tree-structured Parzen estimator (TPE), by the package optuna, which is optional.

Genomes that optuna did not propose (enqueued and amended ones, and the first ones) become trials of
it when they are told.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import cast

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from evomerge.optimize.base import BaseOptimizer
from evomerge.optimize.cube import Cube, Vector
from evomerge.optimize.protocol import Setting
from evomerge.space.protocol import Gene, Genome

FIRST = 10
"""Number of outcomes from which on optuna proposes; those of enqueued genomes do not count. Before
that, points around the start of the search are drawn; optuna itself would draw them from the whole
space. This goes on while all outcomes are equal, since to optuna the oldest would be the best."""

_FIRST = "first"
_VIOLATION = "violation"


class TPE(BaseOptimizer):
    """TPE (Bergstra et al. 2011) over all genes together; knows constraints and several objectives.

    It models the genomes of about the best tenth of the trials, and those of the others. It
    proposes what is likely among the first and unlikely among the others. Choices are categories
    to it, not numbers. Open trials count among the others, so that its proposals differ.
    """

    def __init__(self, cube: Cube, seed: int, objectives: int) -> None:
        super().__init__(cube, population=1, objectives=objectives)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some of the arguments are marked as experimental
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=FIRST,
                multivariate=True,
                constant_liar=True,
                constraints_func=lambda trial: (trial.user_attrs[_VIOLATION],),
                seed=seed % 2**32,
            )
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it tells of each new study
        try:
            self._study = optuna.create_study(sampler=sampler, directions=["minimize"] * objectives)
        finally:
            optuna.logging.set_verbosity(level)
        self._ranges = {str(place): _range(gene) for place, gene in enumerate(cube.genes)}
        self._random = np.random.RandomState(seed % 2**32)
        self._told = 0
        self._outcomes: set[tuple[float, ...]] = set()
        """Two different outcomes, once there are any."""

    def propose(self) -> tuple[object, Vector]:
        """Return a proposal of optuna; before it has `FIRST` outcomes, a point near the start."""
        if self._told < FIRST or len(self._outcomes) < 2:
            draws = self._random.standard_normal(len(self.cube.start))
            return _FIRST, np.clip(self.cube.start + 2 * self.cube.step * draws, 0.0, 1.0)
        trial = self._study.ask(self._ranges)
        return trial, self.cube.point(tuple(trial.params[name] for name in self._ranges))

    def amend(self, trial: int, genome: Genome) -> None:
        """Replace the genome of an open trial; optuna's own trial has failed then."""
        proposed = self._open[trial][0] if trial in self._open else None
        super().amend(trial, genome)
        opened, point = self._open[trial]
        if proposed == _FIRST:
            self._open[trial] = (_FIRST, point)  # it still counts as one of the first
        elif opened is None and proposed is not None:
            self._study.tell(cast(optuna.Trial, proposed), state=TrialState.FAIL)

    def learn_again(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Drop the proposal: optuna knows the outcome, and would draw it more often for copies."""
        if handle != _FIRST:
            self._study.tell(cast(optuna.Trial, handle), state=TrialState.FAIL)

    def learn_all(self, handle: object, point: Vector, losses: Vector, violation: float) -> None:
        """Tell optuna the losses of a point."""
        self._told += handle is not None
        if len(self._outcomes) < 2:
            self._outcomes.add((*losses.tolist(), violation))
        if handle in (None, _FIRST):
            pairs = zip(self.cube.genes, self.cube.genome(point), strict=True)
            values = [value if gene.kind == "real" else int(value) for gene, value in pairs]
            self._study.enqueue_trial(dict(zip(self._ranges, values, strict=True)))
            handle = self._study.ask(self._ranges)
        trial = cast(optuna.Trial, handle)
        trial.set_user_attr(_VIOLATION, violation)
        self._study.tell(trial, losses.tolist())


def _range(gene: Gene) -> BaseDistribution:
    """Return optuna's description of the values of a gene."""
    if gene.kind == "real":
        return FloatDistribution(gene.low, gene.high)
    low, high = round(gene.low), round(gene.high)
    if gene.kind == "integer":
        return IntDistribution(low, high)
    return CategoricalDistribution(range(low, high + 1))


def create_tpe(genes: Sequence[Gene], setting: Setting) -> TPE:
    """Return TPE."""
    return TPE(Cube(genes, setting.sigma), setting.seed, setting.objectives)
