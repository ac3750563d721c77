"""A step for which memory runs out is made again with less of it."""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch

from evomerge.execute import leg
from evomerge.recipe import Layer, Recipe

RECIPE = Recipe("host", {}, Layer("", ()), Layer("", ()))


class Slopes:
    @contextmanager
    def of(self, recipe):
        yield "model", [1.0, 2.0]


class Loss:
    """Needs checkpointing, or fails always."""

    saves_memory = False

    def __init__(self, error: RuntimeError, always: bool = False) -> None:
        self.error, self.always, self.calls = error, always, 0

    def backward(self, model, documents) -> float:
        self.calls += 1
        if self.always or not self.saves_memory:
            raise self.error
        return 0.5


def test_a_step_is_made_again_if_memory_runs_out():
    loss = Loss(torch.OutOfMemoryError("out of memory"))
    assert leg._slope(Slopes(), RECIPE, loss, {}) == ([1.0, 2.0], 0.5)
    assert loss.saves_memory


@pytest.mark.parametrize(
    ("loss", "calls"),
    [
        (Loss(torch.OutOfMemoryError("out of memory"), always=True), 2),
        (Loss(RuntimeError("shapes do not fit")), 1),
    ],
)
def test_another_error_or_a_second_one_is_raised(loss, calls):
    with pytest.raises(RuntimeError):
        leg._slope(Slopes(), RECIPE, loss, {})
    assert loss.calls == calls
