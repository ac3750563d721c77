"""Orthogonal matching pursuit is scikit-learn's, a block at a time."""

from __future__ import annotations

import numpy as np
import pytest

from evomerge.merging.tokenizers import pursuit
from evomerge.merging.tokenizers.pursuit import pursue


def _random(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("count", [1, 7, 20])
def test_it_finds_the_sums_of_scikit_learn(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    linear_model = pytest.importorskip("sklearn.linear_model")
    targets, atoms = _random(0, 30, 24), _random(1, 100, 24)
    monkeypatch.setattr(pursuit, "_BLOCK", 700)  # 7 targets at a time
    chosen, found = pursue(targets, atoms, count, every=1)
    dense = np.zeros((30, 100))
    np.put_along_axis(dense, chosen, found, axis=1)
    theirs = linear_model.orthogonal_mp(atoms.T.astype(float), targets.T, n_nonzero_coefs=count)
    np.testing.assert_allclose(dense, theirs.reshape(100, 30).T, rtol=1e-3, atol=1e-4)


def test_a_sum_of_few_atoms_is_found_again() -> None:
    atoms = np.linalg.qr(_random(2, 32, 32))[0]
    target = 3 * atoms[5] - 2 * atoms[9] + atoms[30]
    chosen, found = pursue(target[None], atoms, 3)
    assert chosen[0].tolist() == [5, 9, 30]
    np.testing.assert_allclose(found[0], [3, -2, 1], rtol=1e-5)


def test_atoms_that_add_nothing_have_no_part() -> None:
    atoms = np.stack([_random(3, 8)] * 3 + [np.zeros(8, np.float32)])
    targets = np.stack([2 * atoms[0], np.zeros(8, np.float32)])
    chosen, found = pursue(targets, atoms, 4)
    assert np.isfinite(found).all()
    np.testing.assert_allclose((found[..., None] * atoms[chosen]).sum(1), targets, atol=1e-5)


def test_with_as_many_atoms_as_numbers_nothing_is_lost() -> None:
    targets, atoms = _random(4, 5, 12), _random(5, 40, 12)
    chosen, found = pursue(targets, atoms, 12)
    np.testing.assert_allclose((found[..., None] * atoms[chosen]).sum(1), targets, atol=1e-3)


def test_looking_at_all_atoms_at_times_is_nearly_as_good() -> None:
    targets, atoms = _random(6, 40, 64), _random(7, 2000, 64)
    left = []
    for every in (1, 8):
        chosen, found = pursue(targets, atoms, 24, every)
        assert all(len(set(row)) == 24 for row in chosen.tolist())
        sums = (found[..., None] * atoms[chosen]).sum(1)
        left.append(np.linalg.norm(targets - sums, axis=1).mean())
    assert left[0] <= left[1] < 1.3 * left[0]
