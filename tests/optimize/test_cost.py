"""What optimizers cost themselves: the figures that were measured, and between them."""

import pytest

from evomerge.optimize import BUILTIN, COSTS, own_seconds


def test_measured_figures_are_met_and_others_lie_between():
    assert set(COSTS) <= set(BUILTIN)
    for name, rows in COSTS.items():
        for genes, (thousand, ten_thousand) in rows.items():
            assert own_seconds(name, genes, 1000) == pytest.approx(thousand)
            assert own_seconds(name, genes, 10_000) == pytest.approx(ten_thousand)
    assert own_seconds("tpe", 200, 1000) < own_seconds("tpe", 400, 1000)
    assert own_seconds("tpe", 400, 1000) < own_seconds("tpe", 1000, 1000)
    assert own_seconds("tpe", 10, 300) < own_seconds("tpe", 10, 1000) / 3


def test_the_cost_grows_beyond_the_measured_range():
    assert own_seconds("tpe", 5000, 1000) > own_seconds("tpe", 1000, 1000)
    assert own_seconds("cma", 1, 1) < own_seconds("cma", 10, 1000)
    assert own_seconds("random", 4000, 100_000) == 0
