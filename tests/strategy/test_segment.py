"""Steps of a descent: where memory runs out, where scales move together, how answers look."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import spaces
import tiny
import torch

from evomerge.evaluation.loss import AnswerKey, Loss
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source
from evomerge.strategy.gradient.descent import Descent
from evomerge.strategy.gradient.lessons import Lesson
from evomerge.strategy.gradient.segment import Segment, Stepper


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

    class Exhausting(Loss):
        def __init__(self):
            self._saves_memory = False

        def backward(self, model, documents, key):
            made.append(self._saves_memory)
            if always or not self._saves_memory:
                raise error
            return 0.5

    stepper = Stepper(SimpleNamespace(genes=()), None, Exhausting())
    stepper._gradients = SimpleNamespace(of=lambda *_: nullcontext(("model", [1.0, 2.0])))
    with pytest.raises(RuntimeError) if always else nullcontext():
        assert stepper._step(None, {}, {}, AnswerKey()) == ([1.0, 2.0], 0.5)
    assert made == [False, True][:calls]


def opened_in(folder, *names):
    return {
        name: Checkpoint.open(tiny.make(folder / name, seed=seed), name)
        for seed, name in enumerate(names)
    }


class Likelihood:
    def without_form(self, documents, forms):
        return {}

    def backward(self, model, documents, key) -> float:
        tokens = torch.arange(1, 13).reshape(2, 6)
        scores = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
        loss = -scores.gather(-1, tokens[..., None]).mean()
        loss.backward()
        return float(loss.detach())


def test_the_gradients_of_scales_are_those_of_each_step(tmp_path):
    """Each scale also moves what the others do, so two segments of a step are as one of two."""
    resident = Resident(opened_in(tmp_path, "a", "b"), "a", "float32")
    end = Layer("passthrough", (Source("a"),))
    frame = Recipe("a", {}, end, end, dtype="float32")
    space = spaces.paths("swaps", {"a": 3, "b": 3}, frame, scales=(0.5, 1.5))
    start = Descent.at([gene.start for gene in space.genes])
    recipe, setting = (
        space.decode(start.genome),
        {"lesson": Lesson({}, {}), "rate": 0.2, "steps": 8},
    )
    one = Segment(descent=start, recipe=recipe, batches=({},), **setting)
    stepper = Stepper(space, resident, Likelihood())
    two = stepper.make(replace(one, batches=({}, {})))
    first = stepper.make(one)
    second = stepper.make(replace(one, descent=first.descent))
    assert two.descent.genome == pytest.approx(second.descent.genome, abs=1e-6)


def test_genes_that_are_moved_at_once_have_the_rates_of_each_alone(tmp_path, monkeypatch):
    """Also where the other genes choose another method."""
    resident, decoded = Resident(opened_in(tmp_path, "a", "b", "base"), "base"), []
    space = spaces.parameters(["task_arithmetic", "ties"], layers=3, groups="each")
    kept, decode = Stepper(space, resident, None), space.decode
    monkeypatch.setattr(space, "decode", lambda genome: decoded.append(genome) or decode(genome))
    for share in (0.2, 0.8, 0.3, 0.9):
        decoded.clear()
        numbers = (gene.low + share * (gene.high - gene.low) for gene in space.genes[1:])
        genome = (float(share > 0.5), *numbers)
        found = kept._rates(genome)
        assert (len(decoded) == 3) == (share in (0.3, 0.9))
        assert found == Stepper(space, resident, None)._rates(genome) != {}


def test_rates_are_those_of_the_parents_that_are_merged(tmp_path):
    """A pool's genes are real numbers, and choose the parents that others weigh."""
    parents = ["a", "b", "c"]
    resident = Resident(opened_in(tmp_path, *parents, "base"), "base")
    space = spaces.parameters(["task_arithmetic"], parents, layers=3, most_parents=2)
    kept = Stepper(space, resident, None)
    for out in (2, 1, 2, 0):
        genome = [0.5 * (gene.low + gene.high) for gene in space.genes]
        genome[:3] = (0.1 if place == out else 0.9 for place in range(3))
        assert kept._rates(tuple(genome)) == Stepper(space, resident, None)._rates(tuple(genome))
