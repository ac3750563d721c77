"""Models that are spread over devices: what lies where, and that candidates stay what they are.

There is one device here. The device map for several needs none; and accelerate's hooks run on two
halves of the model that are both called CPU, so what is left to a machine with several accelerators
is the hand-over between them.
"""

from collections import Counter

import pytest
import tiny
import torch
from lm_tasks import asking, runner_of
from merges import digest, every, mix, path
from stock_scores import UNIT

from evomerge import zoo
from evomerge.errors import ConfigError
from evomerge.evaluation.lm_eval.tasks import Harness
from evomerge.merging.architecture import loading
from evomerge.merging.architecture.loading import Placement, device_of
from evomerge.merging.backend import load, tokenizer_of
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint


def recipe(checkpoints, weight):
    return every(checkpoints["a"], lambda i: mix({"a": weight, "b": 1}, i), dtype="float32")


def weight_of(model):
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.fixture
def accelerators(monkeypatch):
    """Return a function that says which accelerators there are, and how large each is."""

    def those(*found):
        named = [(torch.device(name), size) for name, size in found]
        monkeypatch.setattr(loading, "_accelerators", lambda: named)

    return those


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_blocks_stay_whole_and_devices_hold_what_they_can(pair, architecture, accelerators):
    model = load(pair(architecture)["a"], "cpu")
    room = int(0.8 * weight_of(model))
    accelerators(("cuda:0", room), ("cuda:1", room))
    devices = Placement(spread=True).device_map(model)
    assert {str(device) for device in devices.values()} == {"cuda:0", "cuda:1"}
    used, of_block = Counter(), {}
    for name, parameter in model.named_parameters():
        index = device_of(name, devices).index
        used[index] += parameter.numel() * 4
        for number in [part for part in name.split(".") if part.isdigit()][:1]:
            of_block.setdefault(number, set()).add(index)
    assert max(used.values()) <= room and all(len(it) == 1 for it in of_block.values())


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Placement(attention="flash_attention_2"), r"evaluation\.attention.*'flash_attention_2'"),
        (Placement(spread=True), r"evaluation\.device_map"),
    ],
    ids=["attention", "too small"],
)
def test_what_cannot_be_is_refused_without_weights(pair, place, words, accelerators):
    accelerators(("cuda:0", 1000), ("cuda:1", 1000))
    model = pair()["a"]
    for fine in (Placement(), Placement(attention="eager")):
        fine.check(model.config, "float32")
    for refuse in (lambda: place.check(model.config, "float32"), lambda: load(model, place)):
        with pytest.raises(ConfigError, match=words) as error:
            refuse()
        assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_all_is_on_the_cpu(pair):
    model = load(pair()["a"], "cpu")
    assert set(Placement(spread=True).device_map(model).values()) == {torch.device("cpu")}


@pytest.mark.parametrize("architecture", ["llama", "mixtral"])
def test_candidates_in_a_divided_model_have_the_bits_of_an_undivided_one(
    pair, architecture, accelerators
):
    checkpoints = pair(architecture)
    first, hops = recipe(checkpoints, 0.3), (("b", 2), ("b", 2), ("a", 0), ("b", 1))
    undivided = Resident(checkpoints, "a", "float32")
    size = weight_of(undivided.apply(first))
    accelerators(("cpu", int(0.8 * size)), ("cpu", size))
    divided = Resident(checkpoints, "a", "float32", Placement(spread=True))
    deep = path(checkpoints["a"], hops, dtype="float32")
    for wanted in (first, recipe(checkpoints, 0.9), deep, first):
        models = undivided.apply(wanted), divided.apply(wanted)
        assert len(models[1].hf_device_map) > 1 and hasattr(models[1], "_hf_hook")
        assert digest(undivided.module) == digest(divided.module)
        assert torch.equal(*map(tiny.logits, models))


def test_a_divided_model_is_scored_as_an_undivided_one(accelerators):
    checkpoint = Checkpoint.open(zoo.path("maths"), "zoo:maths")
    tasks = {name: range(30) for name in ("zoo_facts", "zoo_l2_maths_mc", "zoo_maths")}
    accelerators(("cpu", checkpoint.nbytes), ("cpu", checkpoint.nbytes))
    scores = []
    for place in (Placement(), Placement(spread=True)):
        model = load(checkpoint, place)
        evaluator = asking(Harness(list(tasks), [zoo.tasks_path()]))
        evaluator.prepare(model, tokenizer_of(checkpoint), {"search": tasks})
        scores.append(evaluator.score(model).values)
        assert (
            runner_of(evaluator).forward.packed
            and runner_of(evaluator).forward.gather
            and runner_of(evaluator).forward.own_loop
        )
    assert len(model.hf_device_map) > 1 and scores[0] == scores[1]


def test_the_attention_is_the_one_that_was_asked_for(pair):
    places = (Placement(), Placement(attention="eager"))
    models = [
        Resident(pair(), "a", "float32", place).apply(recipe(pair(), 0.5)) for place in places
    ]
    assert [model.config._attn_implementation for model in models] == ["sdpa", "eager"]
    torch.testing.assert_close(*map(tiny.logits, models), rtol=1e-4, atol=UNIT)
