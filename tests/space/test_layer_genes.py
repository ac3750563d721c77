"""Canonical values of genes."""

from hypothesis import given
from hypothesis import strategies as st

from evomerge.space.layer_genes import rounded
from evomerge.space.protocol import Gene

ranges = st.tuples(st.floats(-100, 100), st.floats(1e-9, 100)).map(lambda x: (x[0], x[0] + x[1]))


@given(ranges.filter(lambda x: x[0] < x[1]), st.floats(0, 1))
def test_rounding_real_values_stays_in_range_and_changes_nothing_the_second_time(bounds, share):
    low, high = bounds
    gene = Gene("x", "real", low, high, low)
    value = min(high, low + share * (high - low))
    short = rounded(gene, value)
    assert low <= short <= high
    assert rounded(gene, short) == short
    assert abs(short - value) <= 1e-6 * min(1.0, high - low)


@given(st.integers(-5, 5), st.integers(1, 9), st.floats(0, 1))
def test_discrete_values_are_rounded_down(low, width, share):
    gene = Gene("x", "integer", low, low + width, low)
    value = low + share * width
    assert rounded(gene, value) == int(value // 1)


def test_zero_has_one_sign():
    assert str(rounded(Gene("x", "real", -1, 1, 0), -1e-12)) == "0.0"
