"""The package pycma, set up for searches whose proposals depend on a seed only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import cma
import numpy as np
from cma.sigma_adaptation import CMAAdaptSigmaCSA, CMAAdaptSigmaTPA

SMALLEST_STEP = 1e-7
"""Lower limit of the standard deviations, in units of the initial step. It is far below the
resolution of a recipe, and far enough above rounding errors to keep the covariance matrix valid."""


class TwoPointAdaptation(CMAAdaptSigmaTPA):  # type: ignore[misc]
    """pycma's two-point step-size adaptation (Hansen 2008) without its consistency check.

    The check draws random numbers from numpy's global generator.
    """

    def check_consistency(self, es: object) -> None:
        """Do nothing."""


def evolution_strategy(
    *,
    low: Sequence[float],
    high: Sequence[float],
    population: int,
    diagonal: bool,
    two_point: bool,
    seed: int,
    mean: Sequence[float],
    step: float = 1.0,
) -> Any:
    """Return pycma's CMA-ES.

    Args:
        low: lower bounds, one for each dimension, two or more.
        high: upper bounds.
        population: trials in a generation.
        diagonal: whether to learn variances only.
        two_point: whether the step size is adapted by two mirrored points, else by CSA.
        seed: seed of all random numbers, 0 or more.
        mean: initial mean.
        step: initial standard deviation.
    """
    return cma.CMAEvolutionStrategy(
        list(mean),
        step,
        {
            "bounds": [list(low), list(high)],
            "popsize": population,
            "CMA_diagonal": diagonal,
            "AdaptSigma": TwoPointAdaptation if two_point else CMAAdaptSigmaCSA,
            "minstd": SMALLEST_STEP,
            # Without these two options, pycma seeds and uses numpy's global generator.
            "randn": np.random.RandomState(seed % 2**32).randn,
            "seed": math.nan,
            "verbose": -9,
        },
    )
