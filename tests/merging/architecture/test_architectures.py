"""Every architecture is merged, written, reloaded by transformers' Auto classes, and run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import tiny
import torch
from model_digest import digest

from evomerge.errors import CheckpointError
from evomerge.merging.architecture.naming import with_host_names
from evomerge.merging.resident import Resident
from evomerge.merging.writer import write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.correspondence import check_fit
from evomerge.recipe import Layer, Recipe, Source

pytestmark = pytest.mark.thorough

WEIGHTS = {"a": 0.25, "b": 0.75}


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory):
    """Make two parents of an architecture once."""
    made: dict[str, dict[str, Checkpoint]] = {}

    def get(architecture: str) -> dict[str, Checkpoint]:
        if architecture not in made:
            folder = tmp_path_factory.mktemp(architecture)
            made[architecture] = {
                name: Checkpoint.open(
                    tiny.make(folder / name, architecture, seed=seed, shards=name == "b"), name
                )
                for seed, name in enumerate(WEIGHTS)
            }
        return made[architecture]

    return get


def linear(layers: dict[str, int | None]) -> Layer:
    return Layer(
        "linear",
        [Source(name, layer, {"weight": WEIGHTS[name]}) for name, layer in layers.items()],
    )


def average(host: Checkpoint, names: tuple[str, ...] = ("a", "b"), dtype="bfloat16") -> Recipe:
    return Recipe(
        host.reference,
        {
            prefix: [linear(dict.fromkeys(names, i)) for i in range(len(stack))]
            for prefix, stack in host.language.items()
        },
        linear(dict.fromkeys(names)),
        linear(dict.fromkeys(names)),
        dtype=dtype,
    )


def is_language(name: str) -> bool:
    return not any(word in name for word in ("vision", "visual", "projector"))


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_merge_write_reload_run(architecture, parents, tmp_path):
    checkpoints = parents(architecture)
    host = checkpoints["a"]
    check_fit(host, list(checkpoints.values()))
    recipe = average(host)
    resident = Resident(checkpoints, "a")
    merged = resident.apply(recipe)
    write_model(recipe, checkpoints, tmp_path / "out", shard_size=9000)
    reloaded = tiny.load(tmp_path / "out")
    assert type(reloaded) is type(merged)
    assert reloaded.dtype == torch.bfloat16
    assert digest(reloaded) == digest(resident.module)
    result = tiny.logits(merged)
    assert torch.equal(tiny.logits(reloaded), result)
    assert torch.isfinite(result).all()

    one, two = (tiny.load(item.folder) for item in checkpoints.values())
    others = dict(two.named_parameters())
    written = dict(merged.named_parameters())
    for name, weight in one.named_parameters():
        wanted = weight * 0.25 + others[name] * 0.75 if is_language(name) else weight
        torch.testing.assert_close(written[name].float(), wanted, rtol=2**-8, atol=1e-7)


@pytest.mark.parametrize("architecture", tiny.CONFIGS)
def test_one_parent_alone_is_that_parent_bit_for_bit(architecture, parents):
    checkpoints = parents(architecture)
    names = ("b",) if is_plain(architecture) else ("a",)
    recipe = average(checkpoints["a"], names, dtype="float32")
    merged = Resident(checkpoints, "a", "float32").apply(recipe)
    parent = tiny.load(checkpoints[names[0]].folder)
    assert digest(merged) == digest(parent)
    assert torch.equal(tiny.logits(merged), tiny.logits(parent))


def is_plain(architecture: str) -> bool:
    return architecture not in ("llava", "qwen2_vl")


DEEP = [name for name in tiny.CONFIGS if name not in ("llava", "t5", "bert")]


@pytest.mark.parametrize("architecture", DEEP)
@pytest.mark.parametrize("path", [(2, 0, 1, 1), (0, 2)], ids=["longer", "shorter"])
def test_other_depth_loads_and_runs_as_the_resident_model_does(
    architecture, path, parents, tmp_path
):
    checkpoints = parents(architecture)
    host = checkpoints["a"]
    layers = [Layer("passthrough", [Source("ab"[i % 2], layer)]) for i, layer in enumerate(path)]
    whole = Layer("passthrough", [Source("a")])
    recipe = Recipe("a", {host.decoder_stack.prefix: layers}, whole, whole, dtype="float32")
    resident = Resident(checkpoints, "a", "float32")
    resident.apply(average(host, dtype="float32"))
    merged = resident.apply(recipe)
    write_model(recipe, checkpoints, tmp_path / "out")
    reloaded = tiny.load(tmp_path / "out")
    assert digest(reloaded) == digest(resident.module)
    assert torch.equal(tiny.logits(reloaded), tiny.logits(merged))
    ids = torch.tensor([[1, 5, 9, 7]])
    grown = [
        model.generate(ids, max_new_tokens=12, do_sample=False) for model in (merged, reloaded)
    ]
    assert torch.equal(*grown)
    uncached = reloaded.generate(ids, max_new_tokens=12, do_sample=False, use_cache=False)
    assert torch.equal(uncached, grown[0])


def test_per_layer_lists_follow_the_blocks(parents, tmp_path):
    checkpoints = parents("gemma3")
    whole = Layer("passthrough", [Source("a")])
    path = (1, 0, 1, 2)
    layers = [Layer("passthrough", [Source("a", layer)]) for layer in path]
    recipe = Recipe("a", {"model.layers": layers}, whole, whole, dtype="float32")
    write_model(recipe, checkpoints, tmp_path / "out")
    config = Checkpoint.open(tmp_path / "out", "out").config
    kinds = checkpoints["a"].config["layer_types"]
    assert config["layer_types"] == [kinds[layer] for layer in path]
    assert config["num_hidden_layers"] == 4


def test_derived_lists_are_written_out_where_the_depth_changes(tmp_path):
    folder = tiny.make(tmp_path / "a", "gemma2")
    config = Checkpoint.open(folder, "a").config
    kinds = config["layer_types"]
    plain = {key: value for key, value in config.items() if key != "layer_types"}
    (folder / "config.json").write_text(json.dumps(plain))
    checkpoints = {"a": Checkpoint.open(folder, "a")}
    whole = Layer("passthrough", [Source("a")])
    layers = [Layer("passthrough", [Source("a", layer)]) for layer in (1, 1, 2)]
    write_model(Recipe("a", {"model.layers": layers}, whole, whole), checkpoints, tmp_path / "out")
    written = Checkpoint.open(tmp_path / "out", "out").config
    assert written["layer_types"] == [kinds[1], kinds[1], kinds[2]]


@pytest.mark.parametrize("host_kind", ["llava", "qwen2_vl"])
def test_text_only_parents_merge_into_a_vision_language_host(host_kind, tmp_path):
    text_kind = {"llava": "llama", "qwen2_vl": "qwen2"}[host_kind]
    folders = {
        "host": tiny.make(tmp_path / "host", host_kind, seed=1),
        "text": tiny.make(tmp_path / "text", text_kind, seed=2),
    }
    checkpoints = {name: Checkpoint.open(folder, name) for name, folder in folders.items()}
    host = checkpoints["host"]
    check_fit(host, list(checkpoints.values()))
    prefix = host.decoder_stack.prefix

    def mix(layer: int | None) -> Layer:
        return Layer("linear", [Source("host", layer), Source("text", layer)])

    recipe = Recipe(
        "host", {prefix: [mix(i) for i in range(3)]}, mix(None), mix(None), dtype="float32"
    )
    write_model(recipe, checkpoints, tmp_path / "out")
    merged, vision, text = (tiny.load(tmp_path / name) for name in ("out", "host", "text"))
    before, after = vision.state_dict(), merged.state_dict()
    for name, weight in text.state_dict().items():
        own = name.replace("model.", "model.language_model.")
        torch.testing.assert_close(after[own], before[own] * 0.5 + weight * 0.5)
    kept = [name for name in before if not is_language(name)]
    assert len(kept) > 10
    assert all(torch.equal(before[name], after[name]) for name in kept)
    resident = Resident(checkpoints, "host", "float32")
    resident.apply(recipe)
    assert digest(resident.module) == digest(merged)


def test_names_of_an_older_version_are_matched(tmp_path):
    folder = tiny.make(tmp_path / "new", "bert", seed=1)
    old = Path(shutil.copytree(folder, tmp_path / "old"))

    def rename(tensors):
        for name in list(tensors):
            older = name.replace("LayerNorm.weight", "LayerNorm.gamma")
            older = older.replace("LayerNorm.bias", "LayerNorm.beta").removeprefix("bert.")
            tensors[older] = tensors.pop(name)

    tiny.rewrite(old, rename)
    checkpoints = {name: Checkpoint.open(tmp_path / name, name) for name in ("new", "old")}
    check_fit(checkpoints["new"], list(checkpoints.values()))
    layers = [Layer("passthrough", [Source("old", i)]) for i in range(3)]
    whole = Layer("passthrough", [Source("old")])
    recipe = Recipe("new", {"bert.encoder.layer": layers}, whole, whole, dtype="float32")
    merged = Resident(checkpoints, "new", "float32").apply(recipe)
    assert digest(merged) == digest(tiny.load(folder))


@pytest.mark.parametrize("architecture", ["mixtral", "qwen3_moe"])
@pytest.mark.parametrize("host", ["apart", "fused"])
def test_experts_saved_one_by_one_match_fused_ones(architecture, host, tmp_path):
    tiny.make(tmp_path / "apart", architecture, seed=1)
    model = tiny.load(tmp_path / "apart")
    tiny.randomize(model, seed=2)
    model.save_pretrained(tmp_path / "fused", save_original_format=False)
    checkpoints = {name: Checkpoint.open(tmp_path / name, name) for name in ("apart", "fused")}
    other = "fused" if host == "apart" else "apart"
    with pytest.raises(CheckpointError, match="no counterpart"):
        check_fit(checkpoints[host], list(checkpoints.values()))
    fingerprint = checkpoints[other].fingerprint
    checkpoints = with_host_names(checkpoints, host)
    check_fit(checkpoints[host], list(checkpoints.values()))
    assert checkpoints[other].fingerprint == fingerprint
    layers = [Layer("passthrough", [Source(other, i)]) for i in range(3)]
    whole = Layer("passthrough", [Source(other)])
    recipe = Recipe(host, {"model.layers": layers}, whole, whole, dtype="float32")
    merged = Resident(checkpoints, host, "float32").apply(recipe)
    assert digest(merged) == digest(tiny.load(tmp_path / other))
    write_model(recipe, checkpoints, tmp_path / "out")
    assert digest(tiny.load(tmp_path / "out")) == digest(merged)


def test_buffers_of_old_checkpoints_are_no_obstacle(tmp_path):
    folder = tiny.make(tmp_path / "new", "llama", seed=1)
    old = Path(shutil.copytree(folder, tmp_path / "old"))

    def add(tensors):
        for i in range(3):
            tensors[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = torch.ones(4)

    tiny.rewrite(old, add)
    for host, parent in (("new", "old"), ("old", "new")):
        checkpoints = {name: Checkpoint.open(tmp_path / name, name) for name in ("new", "old")}
        check_fit(checkpoints[host], list(checkpoints.values()))
        layers = [Layer("passthrough", [Source(parent, i)]) for i in range(3)]
        whole = Layer("passthrough", [Source(parent)])
        recipe = Recipe(host, {"model.layers": layers}, whole, whole, dtype="float32")
        merged = Resident(checkpoints, host, "float32").apply(recipe)
        assert digest(merged) == digest(tiny.load(folder))
        write_model(recipe, checkpoints, tmp_path / f"from_{host}")
        assert digest(tiny.load(tmp_path / f"from_{host}")) == digest(merged)


def test_unknown_architecture_is_refused_without_running_its_code(tmp_path):
    folder = tiny.make(tmp_path / "a")
    tiny.edit_config(folder, architectures=["MadeUpForCausalLM"])
    checkpoints = {"a": Checkpoint.open(folder, "a")}
    with pytest.raises(CheckpointError, match="MadeUpForCausalLM"):
        Resident(checkpoints, "a", "float32").apply(
            average(checkpoints["a"], ("a",), dtype="float32")
        )


def test_incomplete_checkpoint_is_refused(tmp_path):
    folder = tiny.make(tmp_path / "a")
    tiny.rewrite(folder, lambda tensors: tensors.pop("model.norm.weight"))
    checkpoints = {"a": Checkpoint.open(folder, "a")}
    with pytest.raises(CheckpointError, match=r"model\.norm\.weight"):
        Resident(checkpoints, "a", "float32").apply(
            average(checkpoints["a"], ("a",), dtype="float32")
        )
