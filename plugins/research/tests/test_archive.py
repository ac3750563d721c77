"""Cells, elites, coverage, QD score, and elite sampling against the authors' sampler."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from draws import draws
from evomerge_research.archive import Archive, Grid, finite_values
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.scores import Constraint, Expected, Objective, Scores

FEW = settings(max_examples=draws(50), deadline=None)
UNIT = ((0.0, 1.0),) * 3
VALUES = st.lists(st.sampled_from([i / 10 for i in range(11)]), min_size=3, max_size=3)


@given(st.lists(VALUES, max_size=30), st.sampled_from([0, 1, 2]))
@FEW
def test_a_cell_keeps_its_first_best_candidate(rows, objective):
    archive = Archive(Grid(4, UNIT), objective)
    cells: dict[tuple[int, ...], list[tuple[float, int]]] = {}
    for number, values in enumerate(rows):
        others = [value for index, value in enumerate(values) if index != objective]
        cell = tuple(min(int(4 * value), 3) for value in others)
        cells.setdefault(cell, []).append((values[objective], -number))
        archive.add(number, values)
    best = {cell: max(known) for cell, known in cells.items()}
    assert {cell: (elite.quality, -elite.number) for cell, elite in archive.elites.items()} == best


def test_bounds_are_in_the_sign_of_the_metric_and_what_is_outside_has_the_last_bin():
    objectives = [Objective("one", "acc"), Objective("two", "loss", higher_is_better=False)]
    grid = Grid.of(objectives, 10, {"two/loss": [2.0, 4.0]})
    assert grid.bounds == ((0.0, 1.0), (-4.0, -2.0))
    losses = {4.0: 0, 5.0: 0, 3.0: 5, 2.0: 9, 1.0: 9}
    assert {loss: grid.bin(1, -loss) for loss in losses} == losses


def gamma_of_the_authors(archive: Archive) -> np.ndarray:
    """Return the probabilities of the authors' elite sampler, written as in their code."""
    rows = [(elite.quality, *cell) for cell, elite in archive.elites.items()]
    gamma = np.ones(len(rows))
    for column in np.array(rows, dtype=float).T:
        low, high = column.min(), column.max()
        gamma *= np.ones(len(rows)) if low == high else 0.5 + (column - low) * 0.8 / (high - low)
    return gamma / gamma.sum()


def test_elites_are_drawn_by_the_gamma_of_the_authors():
    archive = Archive(Grid(4, UNIT), 0)
    for number, values in enumerate([(1.0, 0.0, 0.0), (0.2, 0.9, 0.9), (0.6, 0.3, 0.9)]):
        archive.add(number, values)
    random = np.random.default_rng(0)
    firsts = [archive.draw(random, 2)[0] for _ in range(4000)]
    shares = np.bincount(firsts) / len(firsts)
    assert shares == pytest.approx(gamma_of_the_authors(archive), abs=0.03)
    assert len(set(archive.draw(random, 2))) == 2
    assert sorted(archive.draw(random, 9)) == [0, 1, 2]


def test_one_elite_or_equal_elites_can_be_drawn():
    archive = Archive(Grid(4, UNIT), 0)
    archive.add(7, (0.0, 0.0, 0.0))
    assert archive.draw(np.random.default_rng(0), 2) == [7]


ONE, TWO = Objective("one", "acc"), Objective("two", "loss", higher_is_better=False)


def scores(one: float = 0.5, **more: Any) -> Scores:
    return Scores({"one": (0,), "two": (0,)}, {}, {"one/acc": one, "two/loss": 3.0}, **more)


def test_scores_that_are_no_numbers_estimated_or_break_a_constraint_do_not_count():
    assert finite_values([ONE, TWO], [], scores()) == (0.5, -3.0)
    assert finite_values([ONE, TWO], [], scores(math.nan)) is None
    assert finite_values([ONE], [], scores(expected={"one/acc": Expected(0.5, 0.1)})) is None
    assert finite_values([ONE], [Constraint("two", "loss", at_most=2.0)], scores()) is None
