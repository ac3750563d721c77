"""Descent is torch's Adam on genomes, within the ranges of the genes, and survives the journal."""

import json
import math
from dataclasses import asdict

import pytest
import torch

from evomerge.evaluation.inference.rows import Form
from evomerge.space.protocol import Gene
from evomerge.strategy.gradient.descent import BETAS, LAST_RATE, Descent
from evomerge.strategy.gradient.segment import SegmentResult

GENES = [Gene("a", "real", -2.0, 2.0, 0.0), Gene("b", "real", 0.0, 1.0, 0.5)]
TARGET = (1.25, 0.25)


def gradient(genome):
    return [
        2 * (value - wanted) * (1 + 9 * i)
        for i, (value, wanted) in enumerate(zip(genome, TARGET, strict=True))
    ]


def test_steps_are_those_of_torchs_adam():
    genes = [Gene(name, "real", -50.0, 50.0, 0.0) for name in "ab"]
    weights = torch.tensor([0.3, -0.2], dtype=torch.float64, requires_grad=True)
    adam = torch.optim.Adam([weights], lr=1.0, betas=BETAS, eps=1e-8)
    descent = Descent.at((0.3, -0.2))
    for step in range(30):
        fall = math.cos(math.pi * step / 30) / 2 + 0.5
        adam.param_groups[0]["lr"] = 0.01 * 100 * (LAST_RATE + (1 - LAST_RATE) * fall)
        weights.grad = torch.tensor(gradient(weights.tolist()), dtype=torch.float64)
        descent = descent.step(gradient(descent.genome), genes, rate=0.01, steps=30)
        adam.step()
        assert descent.genome == pytest.approx(weights.tolist(), rel=1e-9)


def test_it_finds_the_lowest_point_within_the_ranges():
    descent = Descent.at((-2.0, 1.0))
    for _ in range(200):
        descent = descent.step(gradient(descent.genome), GENES, rate=0.05, steps=200)
        assert all(g.low <= value <= g.high for g, value in zip(GENES, descent.genome, strict=True))
    assert descent.genome == pytest.approx(TARGET, abs=0.02)


def test_discrete_genes_stay():
    genes = [Gene("c", "choice", 0, 2, 0), Gene("a", "real", 0, 1, 0.5)]
    descent = Descent.at((2.0, 0.5)).step([1.0, 1.0], genes, rate=0.05, steps=10)
    assert descent.genome[0] == 2.0
    assert descent.genome[1] == pytest.approx(0.45)


def test_a_failed_step_moves_nothing_and_slows_the_next_one():
    start = Descent.at((0.0, 0.5))
    slower = start.failed_step()
    assert slower.genome == start.genome
    free, braked = (
        each.step([1.0, 1.0], GENES, rate=0.1, steps=10**9).genome[0] for each in (start, slower)
    )
    assert braked < 0 and free < 2 * braked * 0.99


def test_the_journal_gives_the_same_bits_back():
    descent = Descent.at((0.1, 0.2))
    for _ in range(7):
        descent = descent.step(gradient(descent.genome), GENES, rate=0.07, steps=9)
    result = SegmentResult(descent.failed_step(), (1.0, None), None, {"a": Form(True, "none")})
    assert SegmentResult.read(json.loads(json.dumps(asdict(result)))) == result
