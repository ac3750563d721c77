"""`benchmarks/compare.py`: its rank correlations, and which experts it merges."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from comparing.correlation import spearman
from scipy.stats import spearmanr

pytestmark = pytest.mark.thorough

PAIRS = list(itertools.combinations("abcdefgh", 2))


def test_the_correlation_is_that_of_scipy_and_its_interval_has_it():
    generator = np.random.default_rng(1)
    one = generator.normal(size=len(PAIRS))
    other = one + generator.normal(size=len(PAIRS))
    found = spearman(PAIRS, one, other)
    assert math.isclose(found.value, spearmanr(one, other).statistic)
    assert found.low < found.value < found.high and found.n == len(PAIRS)
    assert found.text.endswith("*") == (found.low > 0)


def test_merges_that_share_experts_are_not_taken_for_independent():
    """Both values are sums of what the two experts bring: eight numbers, not 28."""
    generator = np.random.default_rng(3)
    brings = generator.normal(size=(2, 8))
    one, other = (
        [values["abcdefgh".index(a)] + values["abcdefgh".index(b)] for a, b in PAIRS]
        for values in brings
    )
    shared = spearman(PAIRS, one, other)
    alone = spearman([(str(number),) for number in range(len(PAIRS))], one, other)
    assert math.isclose(shared.value, alone.value)
    assert shared.high - shared.low > 1.2 * (alone.high - alone.low)


def test_equal_values_have_no_correlation():
    assert spearman(PAIRS, np.ones(len(PAIRS)), np.arange(len(PAIRS))) is None
    assert spearman(PAIRS, [math.nan] * len(PAIRS), np.arange(len(PAIRS))) is None
