"""A step for which memory runs out is made again with less of it; scales have their own slopes."""

from __future__ import annotations

from contextlib import nullcontext
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


@pytest.mark.parametrize(
    ("error", "always", "calls"),
    [
        (torch.OutOfMemoryError("out of memory"), False, 2),
        (torch.OutOfMemoryError("out of memory"), True, 2),
        (RuntimeError("shapes do not fit"), True, 1),
    ],
)
def test_a_step_is_made_again_once_if_memory_runs_out(error, always, calls):
    made = []

    def backward(model, documents):
        made.append(loss.saves_memory)
        if always or not loss.saves_memory:
            raise error
        return 0.5

    loss = SimpleNamespace(saves_memory=False, backward=backward)
    slopes = SimpleNamespace(of=lambda recipe: nullcontext(("model", [1.0, 2.0])))
    with pytest.raises(RuntimeError) if always else nullcontext():
        assert leg._slope(slopes, None, loss, {}) == ([1.0, 2.0], 0.5)
    assert made == [False, True][:calls]


def opened_in(folder, *names):
    return {
        name: Checkpoint.open(tiny.make(folder / name, seed=seed), name)
        for seed, name in enumerate(names)
    }


class Likelihood:
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
    resident = Resident(opened_in(tmp_path, "a", "b"), "a", "float32")
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
    opened = opened_in(tmp_path, "a", "b", "base")
    resident = Resident(opened, "base", "float32")
    end = Layer("passthrough", (Source("base"),))
    frame = Recipe("base", {}, end, end, dtype="float32")
    recipes = baseline_recipes(["a", "b"], ["a", "b"], {"model.layers": 3}, frame)
    space = SimpleNamespace(baselines=lambda: recipes)

    def tried(models, documents):
        return [float(model.model.layers[2].mlp.up_proj.weight.detach().sum()) for model in models]

    head = Layer("ties", [Source("a"), Source("b")], Source("base"))
    loss, start = SimpleNamespace(choose_forms=tried), Descent.at([0.5])
    merged = leg.Leg(start, (), {}, 0.1, 1, replace(frame, head=head))
    one, two, mean, base = leg._forms(merged, space, resident, loss, {})
    assert mean == pytest.approx((one + two) / 2, rel=1e-4)
    assert [one, two, base] == tried(
        (AutoModelForCausalLM.from_pretrained(tmp_path / name) for name in opened), {}
    )
    assert len(leg._forms(replace(merged, recipe=frame), space, resident, loss, {})) == 3
