"""The modules of sentence encoders are merged, written and loaded like the rest of the model."""

import json
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from merges import every, mix
from safetensors.torch import load_file

import evomerge
from evomerge.errors import CheckpointError
from evomerge.merging.architecture.attach import make_parts
from evomerge.merging.resident import Resident
from evomerge.merging.writer import unchanged, write_model
from evomerge.models.checkpoint import Checkpoint

sentence_transformers = pytest.importorskip("sentence_transformers")

DENSE = "2_Dense/model.safetensors"
CONFIG, BERT = "config_sentence_transformers.json", "sentence_bert_config.json"


@pytest.fixture(scope="module")
def parents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parents")
    one = tiny.make_encoder(folder / "one", prompts={"query": "w1 "})
    tiny.make_encoder(folder / "two", seed=1, near=one)
    return {name: Checkpoint.open(folder / name, name) for name in ("one", "two")}


def recipe_of(parents, dtype="float32"):
    """A weighted sum; embeddings, blocks and modules have different weights."""

    def layer(block, one=0.25, two=0.75):
        return mix({"one": one, "two": two}, block, normalize=0)

    recipe = every(parents["one"], layer, dtype=dtype)
    return replace(recipe, embeddings=layer(None, 0.5, 0.5), head=layer(None, 0.125, 0.5))


def texts_of(folder):
    with tiny.quiet():
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    found: np.ndarray = model.encode(["w1 w2", "w3 w4 w5"])
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_is_the_formula_in_memory_and_on_disk(parents, tmp_path, dtype):
    recipe, out, host = recipe_of(parents, dtype), tmp_path / "out", parents["one"].folder
    write_model(recipe, parents, out, shard_size="10KB")
    one, two = (load_file(item.folder / DENSE) for item in parents.values())
    built = (
        Resident(parents, recipe.host, recipe.dtype, parts={"modules"}).apply(recipe).state_dict()
    )
    for name, tensor in load_file(out / DENSE).items():
        formula = 0.125 * one[name] + 0.5 * two[name]
        assert torch.allclose(tensor.float(), formula, atol=1e-6 if dtype == "float32" else 1e-2)
        assert torch.equal(built[f"2_Dense.{name}"], tensor)
    assert built.keys() == Checkpoint.open(out, "out").tensors.keys()
    assert len(list(out.glob("model-*.safetensors"))) > 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert not any("Dense" in name for name in index["weight_map"])
    configs = [f"{folder}/config.json" for folder in ("1_Pooling", "2_Dense", "3_Normalize")]
    for name in ("modules.json", "sentence_bert_config.json", CONFIG, *configs):
        assert (out / name).read_bytes() == (host / name).read_bytes()
    assert texts_of(out).shape == (2, 8)


def test_a_parent_alone_is_the_parent(parents, tmp_path):
    write_model(unchanged(parents["one"], "float32"), parents, tmp_path / "same")
    assert (texts_of(tmp_path / "same") == texts_of(parents["one"].folder)).all()


def test_a_merge_says_whose_modules_it_takes(tmp_path):
    one = tiny.make_encoder(tmp_path / "one", dense=0)
    other = tiny.make_encoder(tmp_path / "other", near=one, dense=0, pooling="cls", length=9)
    two, plain = (tiny.make_encoder(tmp_path / it, near=one, dense=0) for it in ("two", "plain"))
    (plain / "modules.json").unlink()
    file = tmp_path / "recipe.yaml"

    def notes(*parents):
        models = [{"model": str(item), "parameters": {"weight": 1}} for item in parents]
        file.write_text(json.dumps({"merge_method": "linear", "models": models}))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evomerge.merge(file, tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        return [str(item.message).replace(f"{tmp_path}/", "") for item in caught]

    body = "only the body of '{}' (BertModel) is merged; {}"
    assert notes(one, two) == []
    for pair, words in (
        ((one, other), "'other' encodes texts by another Pooling.pooling_mode and max_seq_len"),
        ((one, plain), body.format("plain", "the modules.json of the host")),
        ((plain, one), body.format("one", "its modules of sentence-trans")),
    ):
        (said,) = notes(*pair)
        assert words in said


def test_settings_and_weights_of_modules_are_in_the_fingerprint(parents, tmp_path):
    changes = {
        "same": lambda folder: None,
        "settings": lambda folder: (folder / "1_Pooling/config.json").write_text("{}"),
        "weights": lambda folder: shutil.copyfile(parents["two"].folder / DENSE, folder / DENSE),
    }
    found = {}
    for name, change in changes.items():
        change(folder := Path(shutil.copytree(parents["one"].folder, tmp_path / name)))
        found[name] = Checkpoint.open(folder, "x").fingerprint
    assert found["same"] == parents["one"].fingerprint and len(set(found.values())) == 3


KIND = "sentence_transformers.models"


def modules(*places):
    kinds = [("", f"{KIND}.Transformer"), *places]
    return json.dumps([{"path": path, "type": kind} for path, kind in kinds])


POOLING, DENSE_CONFIG, MODULES = "1_Pooling/config.json", "2_Dense/config.json", "modules.json"
DAMAGED = [
    (MODULES, "{}", "must be a list"),
    (MODULES, '[{"path": "", "type": "own.Code"}]', r"'own\.Code', which is not one of"),
    (MODULES, modules().replace('""', '"0_T"'), r"transformer in the folder '0_T'.*save_pretr"),
    (MODULES, modules(("../two", f"{KIND}.Pooling")), r"'\.\./two'; it must be the name of a fol"),
    (MODULES, modules(("2_Dense", f"{KIND}.Router")), "module Router in .*2_Dense has weights"),
    (CONFIG, '{"prompts": {"query": 1}}', "it must be text"),
    (BERT, '{"max_seq_length": "a"}', "must be a whole number from 1"),
    (POOLING, "[]", "not a JSON object"),
    # These are only found where the model is to be run.
    (CONFIG, '{"model_type": "CrossEncoder"}', "a CrossEncoder.*; "),
    (CONFIG, '{"similarity_fn_name": "x"}', "similarity_fn_name.*; "),
    (BERT, '{"processing_kwargs": {"text": {}}}', "processing_kwargs.*; "),
    (POOLING, '{"pooling_mode": "frob"}', "Pooling in .* cannot be built.*; "),
    (DENSE_CONFIG, '{"in_features": 16, "out_features": 9}', "Dense in .* cannot be built"),
]


@pytest.mark.parametrize(("file", "content", "words"), DAMAGED)
def test_what_is_damaged_or_cannot_be_run_is_one_sentence(parents, tmp_path, file, content, words):
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        make_parts(Checkpoint.open(folder, "a"), {"modules"})


def test_a_module_that_is_a_link_and_a_model_without_modules_are_refused(parents, tmp_path):
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    (folder / "1_Pooling").rename(tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link to"):
        Checkpoint.open(folder, "a")
    with pytest.raises(CheckpointError, match=r"no modules\.json.*space\.host"):
        make_parts(Checkpoint.open(tiny.make(tmp_path / "b", "bert"), "b"), {"modules"})
