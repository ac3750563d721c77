"""Checkpoints of other versions of an architecture, and those that no merge can be made of."""

import shutil

import pytest
import tiny
import torch
from merges import digest, mix

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.recipe import Recipe

pytestmark = pytest.mark.thorough


def opened(folder, *names):
    return {name: Checkpoint.open(folder / name, name) for name in names}


def same(host, parent, stack="model.layers"):
    """A parent as it is, with config and names of the host."""
    layers = {stack: [mix([parent], i, "passthrough") for i in range(3)]}
    whole = mix([parent], None, "passthrough")
    return Recipe(host, layers, whole, whole, dtype="float32")


def test_names_of_an_older_version_are_matched(tmp_path):
    tiny.make(tmp_path / "new", "bert", seed=1)
    shutil.copytree(tmp_path / "new", tmp_path / "old")

    def rename(tensors):
        for name in list(tensors):
            older = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            older = older.replace("LayerNorm.bias", "LayerNorm.beta").removeprefix("bert.")
            tensors[older] = tensors.pop(name)

    tiny.rewrite(tmp_path / "old", rename)
    checkpoints = opened(tmp_path, "new", "old")
    check_fit(checkpoints["new"], list(checkpoints.values()))
    resident = Resident(checkpoints, "new", "float32")
    merged = resident.apply(same("new", "old", "bert.encoder.layer"))
    assert digest(merged) == digest(tiny.load(tmp_path / "new"))


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("host", ["apart", "fused"])
def test_experts_saved_one_by_one_match_fused_ones(architecture, host, tmp_path):
    tiny.make(tmp_path / "apart", architecture, seed=1)
    model = tiny.load(tmp_path / "apart")
    tiny.randomize(model, seed=2)
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    checkpoints = opened(tmp_path, "apart", "fused")
    other = "fused" if host == "apart" else "apart"
    with pytest.raises(CheckpointError, match="no counterpart"):
        check_fit(checkpoints[host], list(checkpoints.values()))
    fingerprint = checkpoints[other].fingerprint
    checkpoints = with_host_names(checkpoints, host)
    check_fit(checkpoints[host], list(checkpoints.values()))
    assert checkpoints[other].fingerprint == fingerprint
    merged = Resident(checkpoints, host, "float32").apply(same(host, other))
    assert digest(merged) == digest(tiny.load(tmp_path / other))
    write_model(same(host, other), checkpoints, tmp_path / "out")
    assert digest(tiny.load(tmp_path / "out")) == digest(merged)


@pytest.mark.parametrize(("host", "parent"), [("new", "old"), ("old", "new")])
def test_buffers_of_old_checkpoints_are_no_obstacle(host, parent, tmp_path):
    tiny.make(tmp_path / "new", "llama", seed=1)
    shutil.copytree(tmp_path / "new", tmp_path / "old")
    names = [f"model.layers.{i}.self_attn.rotary_emb.inv_freq" for i in range(3)]
    tiny.rewrite(tmp_path / "old", lambda it: it.update({name: torch.ones(4) for name in names}))
    checkpoints = opened(tmp_path, "new", "old")
    check_fit(checkpoints[host], list(checkpoints.values()))
    merged = Resident(checkpoints, host, "float32").apply(same(host, parent))
    write_model(same(host, parent), checkpoints, tmp_path / "out")
    loaded = (tiny.load(tmp_path / name) for name in ("new", "out"))
    assert {digest(merged)} == set(map(digest, loaded))
