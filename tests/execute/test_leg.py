"""A step for which memory runs out is made again with less of it; scales have their own slopes."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pytest
import spaces
import tiny
import torch
from transformers import AutoModelForCausalLM

from evomerge.execute import leg
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.optimize.descent import Descent
from evomerge.recipe import Layer, Recipe, Source
from evomerge.space.baselines import baseline_recipes

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


@pytest.mark.parametrize(
    ("loss", "calls"),
    [
        (Loss(torch.OutOfMemoryError("out of memory")), None),
        (Loss(torch.OutOfMemoryError("out of memory"), always=True), 2),
        (Loss(RuntimeError("shapes do not fit")), 1),
    ],
)
def test_a_step_is_made_again_once_if_memory_runs_out(loss, calls):
    if calls is None:
        assert leg._slope(Slopes(), RECIPE, loss, {}) == ([1.0, 2.0], 0.5)
        assert loss.saves_memory
        return
    with pytest.raises(RuntimeError):
        leg._slope(Slopes(), RECIPE, loss, {})
    assert loss.calls == calls


class Likelihood:
    """The negative log-likelihood of some tokens."""

    saves_memory = False

    def without_form(self, documents):
        return {}

    def backward(self, model, documents) -> float:
        tokens = torch.arange(1, 13).reshape(2, 6)
        scores = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
        loss = -scores.gather(-1, tokens[..., None]).mean()
        loss.backward()
        return float(loss.detach())


def test_the_slopes_of_scales_are_those_of_each_step(tmp_path):
    """Each scale also moves what the others do, so two legs of a step are as one of two steps."""
    parents = {
        name: Checkpoint.open(tiny.make(tmp_path / name, seed=seed), name)
        for seed, name in enumerate("ab")
    }
    resident = Resident(parents, "a", "float32")
    end = Layer("passthrough", (Source("a"),))
    frame = Recipe("a", {}, end, end, dtype="float32")
    space = spaces.paths("swaps", {"a": 3, "b": 3}, frame, scales=(0.5, 1.5))
    start = Descent.at([gene.start for gene in space.genes])
    one = leg.Leg(start, ({},), {}, 0.2, 8, space.decode(start.genome))
    two = leg.walk(replace(one, batches=({}, {})), space, resident, Likelihood())
    first = leg.walk(one, space, resident, Likelihood())
    second = leg.walk(replace(one, descent=first.descent), space, resident, Likelihood())
    assert two.descent.genome == pytest.approx(second.descent.genome, abs=1e-6)


def test_forms_are_tried_on_the_parents_their_average_and_the_base(tmp_path):
    """Only a recipe that merges task vectors has a base."""
    names = ("a", "b", "base")
    opened = {
        name: Checkpoint.open(tiny.make(tmp_path / name, seed=seed), name)
        for seed, name in enumerate(names)
    }
    resident = Resident(opened, "base", "float32")
    end = Layer("passthrough", (Source("base"),))
    frame = Recipe("base", {}, end, end, dtype="float32")
    recipes = baseline_recipes(names[:2], names[:2], {"model.layers": 3}, frame)
    space = SimpleNamespace(baselines=lambda: recipes)

    def tried(models, documents):
        return [float(model.model.layers[2].mlp.up_proj.weight.detach().sum()) for model in models]

    wanted = [Source(name) for name in names]
    head = Layer("ties", wanted[:2], wanted[2])
    loss, start = SimpleNamespace(choose_forms=tried), Descent.at([0.5])
    merged = leg.Leg(start, (), {}, 0.1, 1, replace(frame, head=head))
    one, two, mean, base = leg._forms(merged, space, resident, loss, {})
    assert mean == pytest.approx((one + two) / 2, rel=1e-4)
    assert [one, two, base] == tried(
        (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in names), {}
    )
    assert len(leg._forms(replace(merged, recipe=frame), space, resident, loss, {})) == 3
