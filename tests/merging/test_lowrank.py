"""Cutting a change to a rank."""

from __future__ import annotations

import pytest
import torch

from evomerge.merging import lowrank
from evomerge.merging.lowrank import factors


@pytest.mark.parametrize("shape", [(30, 50), (50, 30)])
@pytest.mark.parametrize("rank", [1, 7, 40])
def test_the_product_is_the_nearest_of_its_rank(shape, rank):
    change = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    found = factors(change, rank)
    values = torch.linalg.svdvals(change)
    assert found.down.shape == (min(rank, 30), shape[1])
    lost = float(values[rank:].square().sum())
    assert found.lost == pytest.approx(lost, rel=1e-4, abs=1e-6)
    assert found.lost == pytest.approx(float((change - found.up @ found.down).square().sum()))


@pytest.mark.parametrize("decay", [0.0, 0.5, 1.0])
def test_the_range_finder_of_large_matrices_is_as_good(decay, monkeypatch):
    generator = torch.Generator().manual_seed(1)
    left, right = (torch.linalg.qr(torch.randn(n, 200, generator=generator)).Q for n in (300, 260))
    values = torch.arange(1, 201).float() ** -decay
    change = (left * values) @ right.T
    monkeypatch.setattr(lowrank, "_EXACT", 16)
    found = factors(change, 12)
    best = float(values[12:].square().sum())
    assert best * (1 - 1e-4) <= found.lost <= best * 1.01
    assert torch.equal(found.up, factors(change, 12).up)


@pytest.mark.parametrize(("rank", "decomposed"), [(8, 24), (80, 300)])
def test_a_matrix_is_decomposed_whole_only_where_this_is_not_slower(rank, decomposed, monkeypatch):
    svd, sides = torch.linalg.svd, []

    def counted(matrix, **options):
        sides.append(min(matrix.shape))
        return svd(matrix, **options)

    monkeypatch.setattr(torch.linalg, "svd", counted)
    factors(torch.randn(320, 300, generator=torch.Generator().manual_seed(0)), rank)
    assert sides == [decomposed]


def test_what_is_rounding_has_no_rank():
    generator = torch.Generator().manual_seed(2)
    old = torch.randn(64, 48, generator=generator)
    true = torch.randn(64, 3, generator=generator) @ torch.randn(3, 48, generator=generator)
    found = factors((old + true * 0.01) - old, 20, rounding=1e-4)
    assert found.up.shape == (64, 3)
    assert found.lost < 1e-6 * float((true * 0.01).square().sum())


@pytest.mark.parametrize("shape", [(30,), (30, 20)])
def test_norms_are_summed_part_by_part(shape, monkeypatch):
    monkeypatch.setattr(lowrank, "_ROWS", 7)
    generator = torch.Generator().manual_seed(3)
    matrix = torch.randn(shape, generator=generator)
    assert lowrank.squared(matrix) == pytest.approx(float(matrix.double().square().sum()))
    if len(shape) == 2:
        up, down = (torch.randn(n, generator=generator) for n in ((30, 4), (4, 20)))
        lost = float((matrix - up @ down).double().square().sum())
        assert lowrank.squared(matrix, up, down) == pytest.approx(lost)
