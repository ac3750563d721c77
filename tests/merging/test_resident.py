"""The resident model: right after any sequence of candidates; unchanged tensors are not written."""

import gc
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from draws import draws
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from merges import digest, every, mix, of_method
from transformers.models.llama import modeling_llama

from evomerge.errors import CandidateError, CheckpointError, RecipeError
from evomerge.merging.methods import method_names
from evomerge.merging.resident import Resident
from evomerge.merging.writer import unchanged, write_model
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source


@pytest.fixture(scope="module")
def checkpoints(family):
    return family(dtype="bfloat16")


def layer_of(method, block, weight):
    """Return a layer of any method, with knobs that have an effect."""
    values = {"weight": weight, "lambda": 0.5, "density": 0.4 + 0.2 * weight, "t": weight}
    return of_method(method, block, values)


def recipe_of(methods, weights, path=(0, 1, 2), dtype="bfloat16"):
    blocks = [layer_of(methods[i % len(methods)], it, weights[i]) for i, it in enumerate(path)]
    first, last = layer_of(methods[0], None, weights[0]), layer_of(methods[-1], None, weights[-1])
    return Recipe("base", {"model.layers": blocks}, first, last, dtype=dtype, seed=7)


def single(method, weight=0.5, dtype="bfloat16"):
    return recipe_of([method], [weight] * 3, dtype=dtype)


@pytest.mark.parametrize("method", method_names())
def test_in_memory_on_disk_kept_or_not_the_bits_are_equal(method, checkpoints, tmp_path):
    found = set()
    for memory, weights in ((0, [0.75]), (1 << 30, [0.25, 0.75]), (0, [0.25, 0.75])):
        resident = Resident(checkpoints, "base", memory=memory)
        for weight in weights:
            resident.apply(single(method, weight))
        found.add(digest(resident.module))
    write_model(single(method, 0.75), checkpoints, tmp_path / "out")
    assert found == {digest(tiny.load(tmp_path / "out"))}


COMMON = ("linear", "slerp", "ties", "dare_ties", "passthrough", "task_arithmetic")
METHODS = st.lists(st.sampled_from(COMMON), min_size=1, max_size=3)
WEIGHTS = st.lists(st.sampled_from([0.25, 0.5, 1.0]), min_size=5, max_size=5)
PATH = st.lists(st.integers(0, 2), min_size=1, max_size=5)
HISTORY = st.lists(st.tuples(METHODS, WEIGHTS, PATH, st.booleans()), min_size=2, max_size=5)


@settings(
    max_examples=draws(12),
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(HISTORY, st.sampled_from([0, 60_000, 1 << 30]))
def test_any_history_leaves_the_model_of_the_last_recipe(checkpoints, history, memory):
    resident = Resident(checkpoints, "base", memory=memory)
    for methods, weights, path, fails in history:
        recipe = recipe_of(methods, weights, path)
        if fails:
            with pytest.raises(CandidateError, match=r"model\.layers\.\d\..*sum to 0"):
                resident.apply(failing(recipe))
            assert resident.module is None
        resident.apply(recipe)
    new = Resident(checkpoints, "base")
    new.apply(recipe)
    assert digest(resident.module) == digest(new.module)


def failing(recipe):
    """Return a recipe whose last block cannot be built."""
    blocks = (*recipe.layers["model.layers"][:-1], mix({"a": 0.0, "b": 0.0}, 0))
    return replace(recipe, layers={"model.layers": blocks})


def test_what_merges_need_is_prepared_once(checkpoints, monkeypatch):
    resident, keys = Resident(checkpoints, "base", memory=1 << 30), []
    prepared = resident.maker.prepared
    keep = prepared.keep
    monkeypatch.setattr(prepared, "keep", lambda key, *of: (keys.append(key), keep(key, *of)))

    def build(recipe):
        keys.clear()
        return resident.apply(recipe)

    total = len(dict(build(single("ties", 0.25)).named_parameters()))
    assert len(keys) == total
    build(single("ties", 0.75))
    assert not keys  # nothing depends on the weight
    mixed = recipe_of(["ties", "dare_ties", "slerp"], [0.5] * 3)
    names = [name for name, _ in build(mixed).named_parameters()]
    # The last method makes norm and head, too.
    assert len(keys) == 2 * sum(".layers.0." in name for name in names) + 2


def test_what_does_not_change_is_not_touched(checkpoints):
    resident = Resident(checkpoints, "base")
    resident.apply(recipe_of(["linear"], [0.5, 0.5, 0.5]))
    weights = dict(resident.module.named_parameters())
    marked = {name: weight.data.flatten()[:1] for name, weight in weights.items()}
    for mark in marked.values():
        mark.fill_(42.0)
    resident.apply(recipe_of(["linear"], [0.5, 0.25, 0.5]))
    written = {name for name, mark in marked.items() if float(mark) != 42.0}
    assert written == {name for name in weights if name.startswith("model.layers.1.")}


def test_the_same_module_and_memory_serve_all_candidates(checkpoints):
    resident = Resident(checkpoints, "base")
    first = resident.apply(single("linear", 0.25))
    places = {name: weight.data_ptr() for name, weight in first.named_parameters()}
    other = resident.apply(recipe_of(["linear"], [0.5] * 5, path=(0, 1, 2, 1, 0)))
    again = resident.apply(single("linear", 0.5))
    assert again is first and other is not first
    assert places == {name: weight.data_ptr() for name, weight in again.named_parameters()}
    deeper = dict(other.named_parameters())
    assert all(deeper[name].data_ptr() == place for name, place in places.items())


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("method", ["linear", "ties", "slerp"])
def test_bad_weights_of_a_parent_are_named(method, value, checkpoints, tmp_path):
    bad, name = shutil.copytree(checkpoints["a"].folder, tmp_path / "bad"), "layers.1.mlp.up_proj"
    tiny.rewrite(bad, lambda it: it[f"model.{name}.weight"][2].fill_(value))
    checkpoints = {**checkpoints, "a": Checkpoint.open(bad, "a")}
    wanted = rf"model\.{name}\.weight: 16 of 384 weights of 'a' are NaN or inf"
    with pytest.raises(CheckpointError, match=wanted):
        Resident(checkpoints, "base").apply(single(method))
    with pytest.raises(CheckpointError, match=wanted):
        write_model(single(method), checkpoints, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_overflow_of_the_dtype_is_named_and_leaves_no_trace(checkpoints):
    plain = unchanged(checkpoints["base"], "float16")
    huge = Layer("linear", [Source("a", None, {"weight": 100.0})] * 5000, None, {"normalize": 0})
    resident = Resident(checkpoints, "base", "float16")
    wanted = digest(resident.apply(plain))
    with pytest.raises(CandidateError, match=r"from finite sources.*F16"):
        resident.apply(replace(plain, head=huge))
    assert digest(resident.apply(plain)) == wanted


@pytest.mark.parametrize(("method", "written"), [("ties", 0), ("sce", 1)])
def test_a_method_that_does_not_write_all_leaves_nothing_of_the_last_merge(
    checkpoints, method, written
):
    """Of a method of torch, as most of other packages are, any weight is noticed."""
    resident = Resident(checkpoints, "base", "bfloat16")
    resident.apply(single("linear"))
    resident.maker.merge_of = lambda plan: lambda *args: args[-1].reshape(-1)[:written].fill(0)
    with pytest.raises(CandidateError, match="does not write all of `out`"):
        resident.apply(single(method))


def test_recipes_of_another_host_or_dtype_are_refused(checkpoints):
    resident = Resident(checkpoints, "base")
    with pytest.raises(RecipeError, match="has the host 'base' in bfloat16, but"):
        resident.apply(single("linear", dtype="float32"))


@pytest.mark.parametrize("tied", [True, False])
def test_tied_heads_stay_tied(tied, pair, tmp_path):
    checkpoints = pair(tied=tied)
    recipe = every(checkpoints["a"], lambda i: mix("ab", i), dtype="float32")
    recipe = replace(recipe, head=mix({"a": 0.9, "b": 1.0}))
    resident = Resident(checkpoints, "a", "float32")
    merged = resident.apply(recipe)
    assert (merged.lm_head.weight is merged.model.embed_tokens.weight) == tied
    write_model(recipe, checkpoints, tmp_path / "out")
    assert digest(tiny.load(tmp_path / "out")) == digest(resident.module)
    assert ("lm_head.weight" in Checkpoint.open(tmp_path / "out", "out").tensors) == (not tied)


def mapped_bytes(folder):
    """Return how much of the mapped files in a folder is in the memory of this process.

    Files of earlier tests may be unmapped at any time.
    """
    size, is_inside = 0, False
    for line in Path("/proc/self/smaps").read_text(encoding="utf-8").splitlines():
        first, *words = line.split()
        if not first.endswith(":"):  # a mapping begins
            is_inside = str(folder) in line
        elif is_inside and first == "Rss:":
            size += 1024 * int(words[0])
    return size


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
@pytest.mark.parametrize("method", ["linear", "ties"])
def test_parents_of_a_pool_are_never_in_memory_together(tmp_path, method):
    sizes = {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 4}
    base = tiny.make(tmp_path / "base", **sizes)
    names = [f"p{seed}" for seed in range(6)]
    for seed, name in enumerate(names):
        tiny.make(tmp_path / name, seed=seed + 1, near=base, **sizes)
    opened = {name: Checkpoint.open(tmp_path / name, name) for name in ("base", *names)}
    origin, weights = "base" if method == "ties" else None, dict.fromkeys(names, 0.1)
    recipe = every(opened["base"], lambda i: mix(weights, i, method, origin), dtype="float32")
    grown, digests = {}, set()
    for release in (True, False):
        model = Resident(opened, "base", "float32", release=release)
        gc.collect()
        before = mapped_bytes(tmp_path)
        model.apply(recipe)
        grown[release] = mapped_bytes(tmp_path) - before
        digests.add(digest(model.module))
    size = opened["base"].nbytes
    assert grown[True] < size < 4 * size < grown[False] and len(digests) == 1


def test_an_integer_buffer_is_a_copy_that_may_be_written(tmp_path, monkeypatch):
    """Its values come from a file that is mapped for reading only."""
    begin = modeling_llama.LlamaModel.__init__

    def with_counts(self, config):
        begin(self, config)
        self.register_buffer("counts", torch.zeros(4, dtype=torch.int64))

    monkeypatch.setattr(modeling_llama.LlamaModel, "__init__", with_counts)
    folder = tiny.make(tmp_path / "a", "llama")
    tiny.rewrite(folder, lambda tensors: tensors.update({"model.counts": torch.arange(4)}))
    checkpoints = {"a": Checkpoint.open(folder, "a")}
    recipe = unchanged(checkpoints["a"], "float32")
    for _ in range(2):
        counts = Resident(checkpoints, "a", "float32").apply(recipe).model.counts
        assert counts.tolist() == [0, 1, 2, 3]
        counts.add_(1)  # writing to the mapped file would end the process


@pytest.mark.parametrize("change", ["cut off", "written", "removed", "replaced"])
def test_a_parent_that_is_written_to_is_an_error_and_a_new_file_of_its_name_is_none(
    checkpoints, tmp_path, change
):
    """A file that was cut off ended the process by SIGBUS."""
    copies = {}
    for name, item in checkpoints.items():
        shutil.copytree(item.folder, tmp_path / name)
        copies[name] = Checkpoint.open(tmp_path / name, name)
    resident, file = Resident(copies, "base"), tmp_path / "a" / "model.safetensors"
    before = digest(resident.apply(single("linear")))
    if change in ("removed", "replaced"):
        content = file.read_bytes()
        file.unlink()
        if change == "replaced":
            file.write_bytes(content[:-8])
        resident.forget()
        assert digest(resident.apply(single("linear"))) == before
        return
    with file.open("r+b") as stream:
        if change == "cut off":
            stream.truncate(4096)
        else:
            stream.write(file.read_bytes())
    with pytest.raises(CheckpointError, match=r"a/model.safetensors was changed after it was op"):
        resident.apply(single("linear", 0.25))


def test_a_parent_that_is_cut_off_before_it_is_mapped_is_an_error(checkpoints, tmp_path):
    shutil.copytree(checkpoints["a"].folder, tmp_path / "a")
    opened = checkpoints | {"a": Checkpoint.open(tmp_path / "a", "a")}
    os.truncate(tmp_path / "a" / "model.safetensors", 4096)
    with pytest.raises(CheckpointError, match=r"a/model.safetensors was changed after it was op"):
        Resident(opened, "base").apply(single("linear"))
