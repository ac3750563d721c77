"""Configs of adapters from strangers: patterns, other folders."""

import json

import pytest
import torch
from peft.utils.other import get_pattern_key
from safetensors.torch import save_file

from evomerge import zoo
from evomerge.errors import CheckpointError
from evomerge.merging.tensors import adapters
from evomerge.merging.tensors.adapters import Adapter
from evomerge.models.checkpoint import Checkpoint

pytestmark = pytest.mark.thorough

MODULES = ("model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj")
WRONG = ["(", "*", "[", "(?P<n>", "\\", "a{3,1}", "\\p{L}", "(" * 3000, "(?<=a+)"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The folder of an adapter on two modules of an embedded model."""
    folder = tmp_path_factory.mktemp("adapter")
    size = Checkpoint.open(zoo.path("base"), "zoo:base").config["hidden_size"]
    shapes = (("A", (2, size)), ("B", (size, 2)))
    tensors = {
        f"base_model.model.{module}.lora_{part}.weight": torch.ones(shape)
        for module in MODULES
        for part, shape in shapes
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    return folder


def opened(folder, **config):
    data = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, **config}
    (folder / "adapter_config.json").write_text(json.dumps(data))
    return Adapter(Checkpoint.open(zoo.path("base"), "zoo:base", adapter=folder))


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("layers.1.self_attn.q_proj", MODULES[1:]),
        ("q_proj", MODULES),
        (r"layers\.[0-9]+\..*q_proj", MODULES),
        (r"model\.layers\.(0|7)\..*", MODULES[:1]),
        ("proj", ()),
        (r"layers\.\d{1,3}\.self_attn\.[qkv]_proj", MODULES),
    ],
)
def test_patterns_mean_what_they_mean_in_peft(folder, pattern, expected):
    changes = opened(folder, alpha_pattern={pattern: 8}).changes.values()
    alphas = {module: 8.0 if module in expected else 4.0 for module in MODULES}
    assert {it.module: 2 * it.scale for it in changes} == alphas
    for module in MODULES:
        assert (get_pattern_key([pattern], module) == pattern) == (module in expected)


@pytest.mark.parametrize("pattern", WRONG)
def test_what_is_no_pattern_of_peft_is_refused(folder, pattern):
    with pytest.raises(CheckpointError, match=r"which is not a regular expression"):
        opened(folder, alpha_pattern={pattern: 8})


def test_patterns_that_take_without_end_hang_nothing(folder, monkeypatch):
    endless = dict.fromkeys(["(([a-z_.0-9]+)+)+!", "((.|.)+)+!", "(.*)*(.*)*(.*)*!"], 8)
    changes = opened(folder, alpha_pattern=endless).changes.values()
    assert {it.scale for it in changes} == {2.0}
    monkeypatch.setattr(adapters, "_SECONDS", 0.2)
    with pytest.raises(CheckpointError, match=r"takes more than 0.2 s to match; write out the"):
        opened(folder, alpha_pattern={"(.|.|..)" * 26 + "[!y]": 8})
