"""What is private in cmaes, from version 0.12 on."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from evomerge.compat import need


class Normal(NamedTuple):
    """A normal distribution: mean (n,), covariance / sigma^2 (n, n), sigma."""

    mean: NDArray[np.float64]
    covariance: NDArray[np.float64]
    sigma: float


def normal_of(optimizer: Any) -> Normal:
    """Return the distribution that a `CMAwM` draws from."""
    inner = need("cmaes", optimizer, "_cma")
    return Normal(*(need("cmaes", inner, name) for name in ("_mean", "_C", "_sigma")))


def normal_with_categories_of(optimizer: Any) -> Normal:
    """Return the distribution that a `CatCMAwM` draws the numbers of a sample from."""
    mean, covariance, lengths, sigma = (
        need("cmaes", optimizer, name) for name in ("_mean", "_C", "_A", "_sigma")
    )
    return Normal(mean, covariance * np.outer(lengths, lengths), sigma)


def probabilities_of(optimizer: Any) -> NDArray[np.float64]:
    """Return the probability of each value of each choice of a `CatCMAwM`, (choices, values)."""
    return np.asarray(need("cmaes", optimizer, "_q"))
