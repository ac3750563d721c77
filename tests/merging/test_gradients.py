"""Gradients equal finite differences of the loss, for every method and knob that has one."""

from dataclasses import replace

import pytest
import torch
from merges import of_method, rates_of

from evomerge.merging.gradients import Gradients, knob_changes
from evomerge.merging.methods import get_method, method_names
from evomerge.merging.resident import Resident
from evomerge.recipe import Layer, Recipe, Source

VALUES = {"weight": 0.6, "lambda": 0.8, "density": 0.5, "t": 0.4, "scale": 1.1}
"""Knobs at which the gradients are compared; others have their defaults."""


@pytest.fixture(scope="module")
def checkpoints(family):
    return family()


def recipe(method, moved={}):  # noqa: B006
    blocks = [of_method(method, block, VALUES, moved) for block in range(3)]
    end = of_method(method, None, VALUES, moved)
    return Recipe("base", {"model.layers": blocks}, end, end, dtype="float64", seed=7)


def loss(model):
    tokens = torch.arange(1, 13).reshape(2, 6)
    logits = model(input_ids=tokens, use_cache=False).logits
    return logits.log_softmax(-1).gather(-1, tokens[..., None]).sum()


def value(resident, recipe):
    with torch.no_grad():
        return float(loss(resident.apply(recipe)).double())


def knobs_of(method):
    """Return the parent (None: the merge) and the name of every knob without jumps.

    tests/merging/methods/test_task_vector_gradients.py is about those with jumps.
    """
    sources, found = of_method(method, None, VALUES).sources, get_method(method)
    smooth = [it for it in found.knobs if it.is_smooth and it.name not in found.smoothed]
    own = [(source.parent, it.name) for it in smooth for source in sources if it.per == "source"]
    return own + [(None, it.name) for it in smooth if it.per == "merge"]


@pytest.mark.parametrize("method", method_names())
def test_gradients_equal_finite_differences_of_the_loss(method, checkpoints):
    resident, step = Resident(checkpoints, "base", "float64"), 0.01
    ends = [[recipe(method, {key: way * step}) for way in (-1, 1)] for key in knobs_of(method)]
    rates = rates_of(resident, [(*pair, 2 * step) for pair in ends])
    with Gradients(resident, len(ends)).of(recipe(method), rates) as (model, found):
        loss(model).backward()
    values = [[value(resident, end) for end in pair] for pair in ends]
    expected = [(upper - lower) / (2 * step) for lower, upper in values]
    scale = max(map(abs, expected), default=1.0)
    assert found == pytest.approx(expected, abs=0.01 * scale)


def test_no_weight_keeps_a_gradient(checkpoints):
    resident = Resident(checkpoints, "base", "float64")
    moves = [(recipe("linear", {("a", "weight"): -0.1}), recipe("linear"), 0.1)]
    gradients = Gradients(resident, 1)
    with gradients.of(recipe("linear"), rates_of(resident, moves)) as (model, _):
        loss(model).backward()
        assert all(weight.grad is None for weight in model.parameters())
    assert not any(weight.requires_grad for weight in model.parameters())


def test_a_gene_that_changes_a_source_has_no_gradient(checkpoints):
    resident = Resident(checkpoints, "base", "float64")
    other = replace(recipe("linear"), head=Layer("linear", [Source("b", None)]))
    assert not knob_changes(resident.planner, recipe("linear"), other)
