"""`evomerge compare` and `evomerge.compare`: what they read, what they say, and bad input."""

import json
import math
import shutil

import pytest
import tiny
import torch
from search_run import evomerge, evomerge_json
from tiny import copy_of

import evomerge as api
from evomerge import zoo
from evomerge.errors import InputError

EXPERTS = ["zoo:language", "zoo:maths", "zoo:facts"]


@pytest.fixture(scope="module")
def compared():
    return api.compare(EXPERTS, "zoo:base")


def test_the_command_prints_what_python_returns(compared):
    found = evomerge_json("compare", *EXPERTS, "--base", "zoo:base")
    assert found == json.loads(json.dumps(compared.to_dict()))
    assert [item["parent"] for item in found["parents"]] == EXPERTS and len(found["pairs"]) == 3
    changes = [item["components"]["embeddings"] for item in found["parents"]]
    assert changes[0] > 0 == changes[1]
    lines = evomerge("compare", *EXPERTS, "--base", "zoo:base").stdout.splitlines()
    heads = ["parent", "attention", "mlp", "embeddings", "head", "nearest", "cosine"]
    assert lines[0].split("\t") == heads and lines[1].split("\t")[-2:] == ["zoo:facts", "0.04"]


def test_without_a_base_it_says_what_it_cannot_know():
    found = api.compare(EXPERTS[:2])
    assert found.base is None and "give the base" in found.notes[-1]
    (pair,) = found.to_dict()["pairs"]
    assert 0 < pair["cosine"] < 1
    assert found.rows()[0] == ["parent", "nearest", "cosine"]


def test_the_folder_of_an_adapter_is_a_parent_with_the_base(tmp_path):
    from peft import LoraConfig, get_peft_model

    base = tiny.make(tmp_path / "base")
    model = get_peft_model(tiny.load(base), LoraConfig(r=2, target_modules=["q_proj"]))
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if "lora_B" in name:
                tensor.normal_()
    model.save_pretrained(tmp_path / "adapter")
    merged = tmp_path / "merged"
    model.merge_and_unload().save_pretrained(merged)
    tiny.save_tokenizer(merged)
    found = api.compare([tmp_path / "adapter", merged], base).to_dict()
    adapter, whole = found["parents"]
    assert adapter["components"]["mlp"] == 0 < adapter["components"]["attention"]
    assert math.isclose(adapter["change"], whole["change"], rel_tol=1e-4)
    assert math.isclose(found["pairs"][0]["cosine"], 1, abs_tol=1e-4)


def test_bad_input_gets_one_sentence(tmp_path):
    """What needs no model of its own is in `bad_input.yaml`."""
    (tmp_path / "empty").mkdir()
    nan = copy_of("maths", tmp_path / "nan")
    tiny.rewrite(nan, lambda tensors: tensors["model.norm.weight"].fill_(math.nan))
    other = tiny.make(tmp_path / "other")
    cut = shutil.copytree(zoo.path("maths"), tmp_path / "cut")
    weights = cut / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    cases = [
        ("zoo:maths", "zoo:base", ["give a list of models, as ['zoo:maths']"]),
        ([tmp_path / "empty", "zoo:facts"], None, ["config.json"]),
        (["zoo:facts", nan], None, ["nan", "not finite"]),
        ([other, "zoo:facts"], "zoo:base", ["do not fit", "lm_head.weight"]),
        ([cut, "zoo:facts"], None, ["is not a complete", "download it again"]),
    ]
    for parents, base, words in cases:
        with pytest.raises(InputError) as caught:
            api.compare(parents, base)
        message = str(caught.value)
        assert all(word in message for word in words) and "\n" not in message, message
