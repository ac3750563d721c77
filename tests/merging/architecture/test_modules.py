"""The modules of sentence encoders are merged, written and loaded like the rest of the model."""

from __future__ import annotations

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
from evomerge.merging.architecture.modules import check_encoder
from evomerge.merging.backend import resident, unchanged, write
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Recipe

sentence_transformers = pytest.importorskip("sentence_transformers")

DENSE = "2_Dense/model.safetensors"


@pytest.fixture(scope="module")
def parents(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Checkpoint]:
    folder = tmp_path_factory.mktemp("parents")
    one = tiny.make_encoder(folder / "one", prompts={"query": "w1 "})
    tiny.make_encoder(folder / "two", seed=1, near=one)
    return {name: Checkpoint.open(folder / name, name) for name in ("one", "two")}


def recipe_of(parents: dict[str, Checkpoint], dtype: str = "float32") -> Recipe:
    """A weighted sum; the modules have other weights than the blocks."""

    halves = {None: (0.5, 0.5)}
    recipe = every(
        parents["one"],
        lambda i: mix(dict(zip(parents, halves.get(i, (0.25, 0.75)), strict=True)), i, normalize=0),
        dtype=dtype,
    )
    return replace(recipe, head=mix({"one": 0.125, "two": 0.5}, normalize=0))


def texts_of(folder: Path) -> np.ndarray:
    with tiny.quiet():
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    found: np.ndarray = model.encode(["w1 w2", "w3 w4 w5"])
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_is_the_formula_in_memory_and_on_disk(
    parents: dict[str, Checkpoint], tmp_path: Path, dtype: str
) -> None:
    recipe, out, host = recipe_of(parents, dtype), tmp_path / "out", parents["one"].folder
    write(recipe, parents, out, shard_size="10KB")
    one, two = (load_file(item.folder / DENSE) for item in parents.values())
    built = resident(parents, recipe, "cpu", encodes=True).apply(recipe).state_dict()
    for name, tensor in load_file(out / DENSE).items():
        formula = 0.125 * one[name] + 0.5 * two[name]
        assert torch.allclose(tensor.float(), formula, atol=1e-6 if dtype == "float32" else 1e-2)
        assert torch.equal(built[f"2_Dense.{name}"], tensor)
    assert built.keys() == Checkpoint.open(out, "out").tensors.keys()
    assert len(list(out.glob("model-*.safetensors"))) > 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert not any("Dense" in name for name in index["weight_map"])
    settings = ["modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"]
    for folder in ("1_Pooling", "2_Dense", "3_Normalize"):
        settings.append(f"{folder}/config.json")
    for name in settings:
        assert (out / name).read_bytes() == (host / name).read_bytes()
    assert texts_of(out).shape == (2, 8)


def test_a_parent_alone_is_the_parent(parents: dict[str, Checkpoint], tmp_path: Path) -> None:
    write(unchanged(parents["one"], "float32"), parents, tmp_path / "same")
    assert (texts_of(tmp_path / "same") == texts_of(parents["one"].folder)).all()


def test_a_merge_says_whose_modules_it_takes(tmp_path: Path) -> None:
    one = tiny.make_encoder(tmp_path / "one", dense=0)
    other = tiny.make_encoder(tmp_path / "other", near=one, dense=0, pooling="cls", length=9)
    plain = tiny.make_encoder(tmp_path / "plain", near=one, dense=0)
    (plain / "modules.json").unlink()
    file = tmp_path / "recipe.yaml"

    def notes(*parents: Path) -> list[str]:
        models = "".join(f"  - {{model: {item}, parameters: {{weight: 1}}}}\n" for item in parents)
        file.write_text(f"merge_method: linear\nmodels:\n{models}")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            evomerge.merge(file, tmp_path / f"out{len(list(tmp_path.iterdir()))}")
        return [str(item.message).replace(f"{tmp_path}/", "") for item in caught]

    assert notes(one, tiny.make_encoder(tmp_path / "two", seed=1, near=one, dense=0)) == []
    (said,) = notes(one, other)
    assert said.startswith("'other' encodes texts by another Pooling.pooling_mode and max_seq_len")
    (said,) = notes(one, plain)
    assert "only the body of 'plain' (BertModel) is merged; the modules.json of the host" in said
    (said,) = notes(plain, one)
    assert "only the body of 'one' (BertModel) is merged; its modules of sentence-trans" in said


def test_settings_and_weights_of_modules_are_in_the_fingerprint(
    parents: dict[str, Checkpoint], tmp_path: Path
) -> None:
    def copied(name: str) -> Path:
        return Path(shutil.copytree(parents["one"].folder, tmp_path / name))

    same = Checkpoint.open(copied("same"), "x")
    assert same.fingerprint == parents["one"].fingerprint
    settings = copied("settings")
    (settings / "1_Pooling" / "config.json").write_text('{"embedding_dimension": 16}')
    weights = copied("weights")
    shutil.copyfile(parents["two"].folder / DENSE, weights / DENSE)
    found = {Checkpoint.open(folder, "x").fingerprint for folder in (settings, weights)}
    assert len({same.fingerprint, *found}) == 3


def modules(*places: tuple[str, str]) -> str:
    kinds = [("", "sentence_transformers.models.Transformer"), *places]
    return json.dumps([{"path": path, "type": kind} for path, kind in kinds])


CONFIG, BERT = "config_sentence_transformers.json", "sentence_bert_config.json"
DAMAGED = [
    ("modules.json", "{}", "must be a list"),
    ("modules.json", '[{"path": "", "type": "own.Code"}]', r"'own\.Code', which is not one of"),
    (
        "modules.json",
        modules().replace('""', '"0_Transformer"'),
        r"transformer in the folder '0_Transformer'.*save_pretrained",
    ),
    (
        "modules.json",
        modules(("../two", "sentence_transformers.models.Pooling")),
        r"path` is '\.\./two'; it must be the name of a folder",
    ),
    (
        "modules.json",
        modules(("2_Dense", "sentence_transformers.models.Router")),
        "module Router in .*2_Dense has weights",
    ),
    (CONFIG, '{"prompts": {"query": 1}}', "it must be text"),
    (BERT, '{"max_seq_length": "a"}', "must be a whole number from 1"),
    ("1_Pooling/config.json", "[]", "not a JSON object"),
    # These are only found where the model is to be run.
    (CONFIG, '{"model_type": "CrossEncoder"}', "a CrossEncoder.*; "),
    (CONFIG, '{"similarity_fn_name": "x"}', "similarity_fn_name.*; "),
    (BERT, '{"processing_kwargs": {"text": {}}}', "processing_kwargs.*; "),
    ("1_Pooling/config.json", '{"pooling_mode": "frob"}', "Pooling in .* cannot be built.*; "),
    (
        "2_Dense/config.json",
        '{"in_features": 16, "out_features": 9}',
        "Dense in .* cannot be built",
    ),
]


@pytest.mark.parametrize(("file", "content", "words"), DAMAGED)
def test_what_is_damaged_or_cannot_be_run_is_one_sentence(
    parents: dict[str, Checkpoint], tmp_path: Path, file: str, content: str, words: str
) -> None:
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        check_encoder(Checkpoint.open(folder, "a"))


def test_a_module_that_is_a_link_and_a_model_without_modules_are_refused(
    parents: dict[str, Checkpoint], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    shutil.move(folder / "1_Pooling", tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link to"):
        Checkpoint.open(folder, "a")
    plain = Checkpoint.open(tiny.make(tmp_path / "b", "bert"), "b")
    with pytest.raises(CheckpointError, match=r"no modules\.json.*space\.host"):
        check_encoder(plain)
