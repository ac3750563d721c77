"""The modules of sentence encoders are merged, written and loaded like the rest of the model."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import load_file

import evomerge
from evomerge.errors import CheckpointError
from evomerge.merging.architecture.modules import check_encoder
from evomerge.merging.backend import resident, write
from evomerge.models.checkpoint import Checkpoint
from evomerge.recipe import Layer, Recipe, Source

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

    def layer(weights: tuple[float, float], block: int | None = None) -> Layer:
        sources = (
            Source(name, block, {"weight": weight})
            for name, weight in zip(parents, weights, strict=True)
        )
        return Layer("linear", tuple(sources), knobs={"normalize": 0.0})

    stack = parents["one"].decoder_stack
    blocks = tuple(layer((0.25, 0.75), i) for i in range(len(stack)))
    return Recipe("one", {stack.prefix: blocks}, layer((0.5, 0.5)), layer((0.125, 0.5)), dtype)


def texts_of(folder: Path) -> np.ndarray:
    with tiny.quiet():
        model = sentence_transformers.SentenceTransformer(str(folder), device="cpu")
    found: np.ndarray = model.encode(["w1 w2", "w3 w4 w5"])
    return found


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_merge_is_the_formula_in_memory_and_on_disk(
    parents: dict[str, Checkpoint], tmp_path: Path, dtype: str
) -> None:
    recipe = recipe_of(parents, dtype)
    write(recipe, parents, tmp_path / "out", shard_size="10KB")
    one, two = (load_file(item.folder / DENSE) for item in parents.values())
    written = load_file(tmp_path / "out" / DENSE)
    for name, tensor in written.items():
        formula = 0.125 * one[name] + 0.5 * two[name]
        assert torch.allclose(tensor.float(), formula, atol=1e-6 if dtype == "float32" else 1e-2)
    built = resident(parents, recipe, "cpu", encodes=True).apply(recipe).state_dict()
    opened = Checkpoint.open(tmp_path / "out", "out")
    assert len(list((tmp_path / "out").glob("model-*.safetensors"))) > 1
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert not any("Dense" in name for name in index["weight_map"])
    for name, tensor in written.items():
        assert torch.equal(built[f"2_Dense.{name}"], tensor)
    assert built.keys() == opened.tensors.keys()


def test_the_folder_has_all_modules_of_the_host_and_loads(
    parents: dict[str, Checkpoint], tmp_path: Path
) -> None:
    write(recipe_of(parents), parents, tmp_path / "out")
    one, out = parents["one"].folder, tmp_path / "out"
    for name in (
        "modules.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
        "1_Pooling/config.json",
        "2_Dense/config.json",
        "3_Normalize/config.json",
    ):
        assert (out / name).read_bytes() == (one / name).read_bytes()
    assert texts_of(out).shape == (2, 8)
    # A parent alone is the parent, bit for bit.
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"merge_method: linear\nmodels: [{{model: {one}, parameters: {{weight: 1}}}}]\n"
    )
    evomerge.merge(file, tmp_path / "same")
    assert (texts_of(tmp_path / "same") == texts_of(one)).all()


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


def test_weights_in_a_pickle_are_merged(
    parents: dict[str, Checkpoint], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "old"))
    torch.save(load_file(folder / DENSE), folder / "2_Dense" / "pytorch_model.bin")
    (folder / DENSE).unlink()
    old = Checkpoint.open(folder, "one")
    assert old.fingerprint == parents["one"].fingerprint
    recipe = recipe_of(parents)
    for name, opened in (("new", parents), ("from_pickle", {**parents, "one": old})):
        write(recipe, opened, tmp_path / name)
    files = [(tmp_path / name / DENSE).read_bytes() for name in ("new", "from_pickle")]
    assert files[0] == files[1]


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("modules.json", "{}", "must be a list"),
        ("modules.json", '[{"path": "", "type": "own.Code"}]', r"'own\.Code', which is not one of"),
        (
            "modules.json",
            '[{"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}]',
            r"transformer in the folder '0_Transformer'.*save_pretrained",
        ),
        (
            "modules.json",
            '[{"path": "", "type": "sentence_transformers.models.Transformer"},'
            ' {"path": "../two", "type": "sentence_transformers.models.Pooling"}]',
            r"path` is '\.\./two'; it must be the name of a folder",
        ),
        (
            "modules.json",
            '[{"path": "", "type": "sentence_transformers.models.Transformer"},'
            ' {"path": "2_Dense", "type": "sentence_transformers.models.Router"}]',
            "module Router in .*2_Dense has weights",
        ),
        ("config_sentence_transformers.json", '{"prompts": {"query": 1}}', "it must be text"),
        ("sentence_bert_config.json", '{"max_seq_length": "a"}', "must be a whole number from 1"),
        ("1_Pooling/config.json", "[]", "not a JSON object"),
    ],
)
def test_damaged_files_are_one_sentence(
    parents: dict[str, Checkpoint], tmp_path: Path, file: str, content: str, words: str
) -> None:
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(folder, "a")


def test_a_module_that_is_a_link_out_of_the_folder_is_refused(
    parents: dict[str, Checkpoint], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    shutil.move(folder / "1_Pooling", tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="is a link to"):
        Checkpoint.open(folder, "a")


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config_sentence_transformers.json", '{"model_type": "CrossEncoder"}', "a CrossEncoder"),
        ("config_sentence_transformers.json", '{"similarity_fn_name": "x"}', "similarity_fn_name"),
        ("sentence_bert_config.json", '{"processing_kwargs": {"text": {}}}', "processing_kwargs"),
        ("1_Pooling/config.json", '{"pooling_mode": "frob"}', "Pooling in .* cannot be built"),
        (
            "2_Dense/config.json",
            '{"in_features": 16, "out_features": 9}',
            "Dense in .* cannot be built",
        ),
    ],
)
def test_what_cannot_be_run_is_one_sentence(
    parents: dict[str, Checkpoint], tmp_path: Path, file: str, content: str, words: str
) -> None:
    folder = Path(shutil.copytree(parents["one"].folder, tmp_path / "a"))
    (folder / file).write_text(content)
    with pytest.raises(CheckpointError, match=words) as caught:
        check_encoder(Checkpoint.open(folder, "a"))
    assert ";" in str(caught.value)


def test_an_encoder_without_modules_is_one_sentence(tmp_path: Path) -> None:
    plain = Checkpoint.open(tiny.make(tmp_path / "a", "bert"), "a")
    with pytest.raises(CheckpointError, match=r"no modules\.json.*space\.host"):
        check_encoder(plain)
