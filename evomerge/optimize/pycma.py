"""The package pycma, set up for searches whose proposals depend on a seed only."""

from __future__ import annotations

import math
from typing import Any

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA, CMAAdaptSigmaTPA

from evomerge.compat.pycma import extend_path
from evomerge.optimize.cube import Vector

SMALLEST_STEP = 1e-7
"""Lower limit of the standard deviations, in units of the initial step. It is far below the
resolution of a recipe, and far enough above rounding errors to keep the covariance matrix valid."""


class TwoPointAdaptation(CMAAdaptSigmaTPA):  # type: ignore[misc]
    """pycma's two-point step-size adaptation (Hansen 2008) where it can be used, else CSA.

    The two points lie before and behind the mean, in the direction of its last step. While many
    trials are open, a generation may lack them; the path of the mean (cumulative step-size
    adaptation) is always there. pycma's consistency check is left out, since it draws from numpy's
    global generator.
    """

    has_pair = True
    """Whether the generation that is told begins with two mirrored points."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._by_path = CMAAdaptSigmaCSA()

    def hsig(self, es: Any) -> bool:
        """Return whether the path of the mean has a usual length; extend it for CSA, too."""
        self._by_path.initialize(es)
        extend_path(self._by_path, es)
        return bool(super().hsig(es))

    def update2(self, es: Any, function_values: Any, **options: Any) -> float:
        """Return the factor by which the step size changes."""
        method = super().update2 if self.has_pair else self._by_path.update2
        return float(method(es, function_values=function_values, **options))

    def check_consistency(self, es: object) -> None:
        """Do nothing."""


def evolution_strategy(
    *,
    low: Vector,
    high: Vector,
    population: int,
    diagonal: bool,
    two_point: bool,
    random: np.random.RandomState,
) -> Any:
    """Return pycma's CMA-ES for two dimensions or more, with an initial standard deviation of 1."""
    return cma.CMAEvolutionStrategy(
        [0.0] * len(low),
        1.0,
        {
            "bounds": [list(low), list(high)],
            "popsize": population,
            "CMA_diagonal": diagonal,
            "AdaptSigma": TwoPointAdaptation if two_point else CMAAdaptSigmaCSA,
            "minstd": SMALLEST_STEP,
            # Without these two options, pycma seeds and uses numpy's global generator.
            "randn": random.randn,
            "seed": math.nan,
            "verbose": -9,
        },
    )
