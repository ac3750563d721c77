"""Models that are spread over devices: what lies where, and that candidates stay what they are.

There is one device here. The device map for several needs none; and accelerate's hooks run on two
halves of the model that are both called CPU, so what is left to a machine with several accelerators
is the hand-over between them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from model_digest import digest
from rounding import UNIT

from evomerge.errors import ConfigError
from evomerge.merging.architecture import placement
from evomerge.merging.architecture.placement import Placement, device_of
from evomerge.merging.backend import load
from evomerge.merging.resident import Resident
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

PROMPT = torch.tensor([[1, 5, 9, 7, 12, 4, 6]])


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> Any:
    made: dict[str, dict[str, Checkpoint]] = {}

    def get(architecture: str) -> dict[str, Checkpoint]:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = {
                name: Checkpoint.open(tiny.make(folder / name, architecture, seed=seed), name)
                for seed, name in enumerate("ab")
            }
        return made[architecture]

    return get


def merged(checkpoints: Mapping[str, Checkpoint], weight: float) -> Recipe:
    """Return a linear merge."""

    def layer(index: int | None) -> Layer:
        sources = [
            Source(name, index, {"weight": w}) for name, w in zip("ab", (weight, 1), strict=True)
        ]
        return Layer("linear", tuple(sources))

    stack = checkpoints["a"].decoder_stack.prefix
    layers = tuple(layer(index) for index in range(3))
    return Recipe("a", {stack: layers}, layer(None), layer(None), dtype="float32")


def routed(checkpoints: Mapping[str, Checkpoint], *path: tuple[str, int]) -> Recipe:
    """Return a path of whole blocks."""
    whole = Layer("passthrough", (Source("a"),))
    layers = tuple(Layer("passthrough", (Source(name, index),)) for name, index in path)
    return Recipe(
        "a", {checkpoints["a"].decoder_stack.prefix: layers}, whole, whole, dtype="float32"
    )


def weight_of(model: Any) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


@pytest.fixture
def halves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Call both of two accelerators CPU."""
    monkeypatch.setattr(placement, "_accelerator", lambda number: torch.device("cpu"))


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name accelerators that need not be there."""
    monkeypatch.setattr(placement, "_accelerator", lambda number: torch.device("cuda", number))


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=PROMPT).logits
    return found


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral", "gemma2"])
@pytest.mark.parametrize("spread", ["auto", "sequential"])
def test_blocks_stay_whole_and_devices_hold_what_they_can(
    parents: Any, architecture: str, spread: Any, two: None
) -> None:
    model = load(parents(architecture)["a"], "cpu")
    room = {0: int(0.8 * weight_of(model)), 1: int(0.8 * weight_of(model))}
    devices = Placement(spread=spread, memory=room).device_map(model)
    assert {device.type for device in devices.values()} == {"cuda"}
    assert {device.index for device in devices.values()} == {0, 1}
    used: dict[Any, int] = {}
    of_block: dict[str, set[Any]] = {}
    for name, parameter in model.named_parameters():
        device = device_of(name, devices)
        used[device.index] = used.get(device.index, 0) + parameter.numel() * 4
        parts = name.split(".")
        numbers = [part for part in parts if part.isdigit()]
        if numbers:
            of_block.setdefault(numbers[0], set()).add(device.index)
    assert all(used[index] <= room[index] for index in used)
    assert all(len(devices) == 1 for devices in of_block.values())


def test_a_model_that_does_not_fit_is_refused(parents: Any) -> None:
    model = load(parents("llama")["a"], "cpu")
    tight = Placement(spread="auto", memory={0: weight_of(model) // 3, 1: weight_of(model) // 3})
    with pytest.raises(ConfigError, match=r"evaluation\.device_map.*evaluation\.max_memory"):
        tight.device_map(model)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Placement(attention="flash_attention_2"), r"evaluation\.attention.*'flash_attention_2'"),
        (Placement(spread="auto", memory={0: 1000, 1: 1000}), r"evaluation\.device_map"),
        (Placement(spread="auto", memory={99: 10**9}), r"evaluation\.max_memory.* 99, but"),
    ],
    ids=["attention", "too small", "not there"],
)
def test_what_cannot_be_is_refused_without_weights(parents: Any, place: Any, words: str) -> None:
    data = parents("llama")["a"].config
    for fine in (Placement(), Placement(attention="eager")):
        fine.check(data, "float32")
    with pytest.raises(ConfigError, match=words) as error:
        place.check(data, "float32")
    assert "\n" not in str(error.value)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is an accelerator")
def test_without_an_accelerator_all_is_on_the_cpu(parents: Any) -> None:
    model = load(parents("llama")["a"], "cpu")
    assert set(Placement(spread="auto").device_map(model).values()) == {torch.device("cpu")}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "mixtral"])
def test_candidates_in_a_divided_model_have_the_bits_of_an_undivided_one(
    parents: Any, architecture: str, halves: None
) -> None:
    checkpoints = parents(architecture)
    undivided = Resident(checkpoints, "a", "float32")
    first = merged(checkpoints, 0.3)
    size = weight_of(undivided.apply(first))
    place = Placement(spread="sequential", memory={0: int(0.8 * size), 1: size})
    divided = Resident(checkpoints, "a", "float32", place)
    for recipe in (first, merged(checkpoints, 0.9), first):
        one, other = undivided.apply(recipe), divided.apply(recipe)
        assert len(other.hf_device_map) > 1 and hasattr(other, "_hf_hook")
        assert digest(undivided.module) == digest(divided.module)
        assert torch.equal(logits(one), logits(other))


def test_paths_through_a_divided_model_are_those_through_an_undivided_one(
    parents: Any, halves: None
) -> None:
    checkpoints = parents("llama")
    undivided = Resident(checkpoints, "a", "float32")
    paths = [
        routed(checkpoints, ("a", 0), ("b", 1), ("a", 2)),
        routed(checkpoints, ("b", 2), ("b", 2), ("a", 0), ("b", 1), ("a", 2)),
        routed(checkpoints, ("a", 1), ("a", 1), ("b", 0)),
    ]
    size = weight_of(undivided.apply(paths[1]))
    place = Placement(spread="sequential", memory={0: int(0.5 * size), 1: size})
    divided = Resident(checkpoints, "a", "float32", place)
    for recipe in paths:
        assert torch.equal(logits(undivided.apply(recipe)), logits(divided.apply(recipe)))


def test_a_divided_model_is_scored_as_an_undivided_one(parents: Any, halves: None) -> None:
    from transformers import AutoTokenizer

    from evomerge import zoo
    from evomerge.evaluation.evaluator import Evaluator
    from evomerge.evaluation.tasks.harness import Harness

    checkpoint = Checkpoint.open(zoo.path("maths"), "zoo:maths")
    tasks = {name: range(30) for name in ("zoo_facts", "zoo_l2_maths_mc", "zoo_maths")}
    tokenizer = AutoTokenizer.from_pretrained(zoo.path("maths"))
    size = checkpoint.nbytes
    scores = []
    for place in (Placement(), Placement(spread="auto", memory={0: size, 1: size})):
        model = load(checkpoint, place)
        evaluator = Evaluator(Harness(list(tasks), [zoo.tasks_path()]))
        evaluator.prepare(model, tokenizer, {"search": tasks})
        scores.append(evaluator.score(model))
        assert evaluator.forward.packed and evaluator.forward.gather and evaluator.forward.own_loop
    assert len(model.hf_device_map) > 1
    assert scores[0].values == scores[1].values


def test_the_attention_is_the_one_that_was_asked_for(parents: Any) -> None:
    checkpoints = parents("llama")
    plain = Resident(checkpoints, "a", "float32")
    eager = Resident(checkpoints, "a", "float32", Placement(attention="eager"))
    recipe = merged(checkpoints, 0.5)
    one, other = plain.apply(recipe), eager.apply(recipe)
    assert one.config._attn_implementation == "sdpa"
    assert other.config._attn_implementation == "eager"
    torch.testing.assert_close(logits(one), logits(other), rtol=1e-4, atol=UNIT)


def test_an_attention_that_is_not_there_is_one_sentence(parents: Any) -> None:
    with pytest.raises(ConfigError, match=r"evaluation\.attention.*'flash_attention_2'") as error:
        load(parents("llama")["a"], Placement(attention="flash_attention_2"))
    assert "\n" not in str(error.value)


def test_one_device_is_a_placement_too(parents: Any, tmp_path: Path) -> None:
    checkpoints = parents("llama")
    recipe = merged(checkpoints, 0.5)
    one, other = (Resident(checkpoints, "a", "float32", place) for place in ("cpu", Placement()))
    one.apply(recipe), other.apply(recipe)
    assert digest(one.module) == digest(other.module)
