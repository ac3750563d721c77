"""How far two computations of one number in float32 may be apart.

They differ if batches, padding, instruction set, BLAS kernels or threads differ, since sums have
another order then. A tolerance that fits one processor says nothing of the next, so these come from
the arithmetic: u = 2^-24 is the rounding of one operation.
"""

from typing import Any

import numpy as np

NATS = 1e-4
"""Log-likelihoods of the tests' texts: up to 20 tokens, each a log-softmax of logits up to 20,
are sums with an error of some u * 20. Absolute, since a likelihood near 0 nats has it, too."""

UNIT = 1e-5
"""Numbers of about 1 that came through a few layers, such as embeddings: 100 terms of up to 1, so
some sqrt(100) * u for each layer."""

PERPLEXITY = 1e-4
"""Perplexities and other exponentials of nats, relative: the absolute error of their logarithm."""


def near_ties(values: Any) -> bool:
    """Whether rounding may swap two of the numbers of about 1 in some row of `values`."""
    return bool(np.diff(np.sort(np.asarray(values), axis=-1)).min() < 3e-6)
