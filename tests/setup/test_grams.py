"""`evomerge grams` and merges by its files: what a file is checked for, and merges in a search."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from search_run import SMALL
from tiny import make, rewrite
from typer.testing import CliRunner

import evomerge
from evomerge import zoo
from evomerge.cli.commands import app
from evomerge.config.schema import load, parse
from evomerge.errors import CheckpointError, ConfigError, InputError, RecipeError
from evomerge.export.recipe import merge_recipe
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.grams import METADATA
from evomerge.recipe import Grams, Recipe
from evomerge.run.folder import RunFolder
from evomerge.setup.grams import Written, write_grams
from evomerge.setup.runs import begin, prepare, reopen

NAMES = ("language", "maths")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the Gram matrices of two parents."""
    folder = tmp_path_factory.mktemp("grams")
    for name in NAMES:
        written(folder / f"{name}.safetensors", f"zoo:{name}", documents=8)
    return folder


def written(out: Path, model: str, **changes: Any) -> Written:
    return write_grams(parse(SMALL, "search"), Path("/"), model, out, **changes)


def content_of(file: Path) -> dict[str, Any]:
    with safe_open(file, framework="pt") as opened:
        found: dict[str, Any] = json.loads(opened.metadata()[METADATA])
        return found


def changed(source: Path, target: Path, change: Any) -> Path:
    """Write a file again after a change of its matrices and the content of its metadata."""
    matrices, content = load_file(source), content_of(source)
    change(matrices, content)
    save_file(matrices, target, {METADATA: json.dumps(content)})
    return target


def mergekit(folder: Path, **changes: Any) -> Path:
    models = [{"model": f"zoo:{name}", "grams": f"{name}.safetensors"} for name in NAMES]
    data = {"merge_method": "regmean", "models": models, "dtype": "float32", **changes}
    file = folder / "regmean.yaml"
    file.write_text(yaml.safe_dump(data))
    return file


@pytest.fixture
def folder(files: Path, tmp_path: Path) -> Path:
    """A folder of its own with the files, and with `regmean.yaml`."""
    for name in NAMES:
        shutil.copyfile(files / f"{name}.safetensors", tmp_path / f"{name}.safetensors")
    mergekit(tmp_path)
    return tmp_path


def test_the_file_says_what_it_is_made_of_and_has_each_matrix_once(files: Path) -> None:
    file = files / "maths.safetensors"
    content, matrices = content_of(file), load_file(file)
    parent = Checkpoint.open(zoo.path("maths"), "zoo:maths")
    assert content["fingerprint"] == parent.fingerprint
    assert (content["tasks"], content["documents"]) == (["zoo_l2_maths"], [8])
    assert content["tokens"] > 8
    linear = [
        name
        for name, info in parent.tensors.items()
        if len(info.shape) == 2 and name != parent.embedding
    ]
    assert sorted(content["weights"]) == sorted(linear)
    assert set(content["weights"].values()) == matrices.keys()
    blocks = len(parent.main)
    assert len(matrices) == 4 * blocks + 1  # of attention, its output, the MLP, its output; a head
    for matrix in matrices.values():
        torch.testing.assert_close(matrix, matrix.T, rtol=1e-4, atol=1e-4)
        assert (matrix.diagonal() >= 0).all()


def test_the_same_command_gives_the_same_bytes(files: Path, tmp_path: Path) -> None:
    written(tmp_path / "again.safetensors", "zoo:maths", documents=8)
    assert (tmp_path / "again.safetensors").read_bytes() == (
        files / "maths.safetensors"
    ).read_bytes()


def test_a_merge_is_the_equation_of_the_paper_and_elsewhere_the_mean(folder: Path) -> None:
    evomerge.merge(folder / "regmean.yaml", folder / "out")
    merged = load_file(folder / "out/model.safetensors")
    sources = [load_file(zoo.path(name) / "model.safetensors") for name in NAMES]
    grams = [load_file(folder / f"{name}.safetensors") for name in NAMES]
    names = content_of(folder / "maths.safetensors")["weights"]
    for name, tensor in merged.items():
        weights = [source[name].double() for source in sources]
        expected = sum(weights) / 2
        if name in names:
            own = [gram[names[name]].double() for gram in grams]
            own = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in own]
            right = sum(g @ w.T for g, w in zip(own, weights, strict=True))
            expected = torch.linalg.solve(sum(own), right).T
        torch.testing.assert_close(tensor.double(), expected, rtol=1e-4, atol=1e-5)


def test_one_source_stays_what_it_is(folder: Path) -> None:
    mergekit(folder, models=[{"model": "zoo:maths", "grams": "maths.safetensors"}])
    evomerge.merge(folder / "regmean.yaml", folder / "out")
    merged = load_file(folder / "out/model.safetensors")
    for name, tensor in load_file(zoo.path("maths") / "model.safetensors").items():
        assert merged[name].equal(tensor.float())


def test_the_recipe_beside_the_model_names_the_files_by_digest_and_builds_it_again(
    folder: Path,
) -> None:
    evomerge.merge(folder / "regmean.yaml", folder / "one")
    recipe = Recipe.from_yaml((folder / "one/evomerge_recipe.yaml").read_text())
    digest = hashlib.sha256((folder / "maths.safetensors").read_bytes()).hexdigest()
    assert recipe.grams["zoo:maths"] == Grams(str(folder / "maths.safetensors"), digest)
    card = (folder / "one/README.md").read_text()
    assert f"- `maths.safetensors` of `zoo:maths`: `{digest}`" in card
    assert not (folder / "one/mergekit_config.yml").exists()
    evomerge.merge(folder / "one/evomerge_recipe.yaml", folder / "two")
    weights = [(folder / name / "model.safetensors").read_bytes() for name in ("one", "two")]
    assert weights[0] == weights[1]


def test_a_recipe_is_the_same_wherever_its_files_lie() -> None:
    data = Recipe.from_dict(
        {
            "host": "a",
            "embeddings": {"method": "regmean", "sources": [{"parent": "a"}]},
            "head": {"method": "regmean", "sources": [{"parent": "a"}]},
            "grams": {"a": {"file": "here", "sha256": "1" * 64}},
        }
    ).to_dict()
    there = {**data, "grams": {"a": {"file": "there", "sha256": "1" * 64}}}
    other = {**data, "grams": {"a": {"file": "here", "sha256": "2" * 64}}}
    digests = [Recipe.from_dict(item).digest for item in (data, there, other)]
    assert digests[0] == digests[1] != digests[2]
    assert Recipe.from_dict({**data, "grams": {"a": "here"}}).grams == {"a": Grams("here")}
    for wrong in ({"a": {"sha256": "1"}}, {"a": {"file": "x", "path": "y"}}, {"a": 1}, ["a"]):
        with pytest.raises(RecipeError, match="grams"):
            Recipe.from_dict({**data, "grams": wrong})


def lose(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    del matrices[content["weights"]["model.layers.0.mlp.down_proj.weight"]]


def cut(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    name = content["weights"]["model.layers.0.mlp.down_proj.weight"]
    matrices[name] = matrices[name][:8, :8].contiguous()


def widen(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    for name in matrices:
        matrices[name] = matrices[name].double()


def spoil(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    matrices[content["weights"]["model.layers.1.mlp.down_proj.weight"]][3, 4] = float("nan")


def another(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    content["fingerprint"] = "0" * 64


def fewer(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    del content["weights"]["model.layers.0.mlp.down_proj.weight"]


def strange(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    content["weights"]["model.layers.99.mlp.down_proj.weight"] = next(iter(matrices))


def bare(matrices: dict[str, torch.Tensor], content: dict[str, Any]) -> None:
    del content["tokens"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lose, r"are incomplete: .* has no matrix 'model.layers.0.mlp.down_proj'; write the file"),
        (cut, r"do not fit: .* shape \[8, 8\] for 'model.layers.0.mlp.down_proj.weight' of shape"),
        (widen, r"do not fit: .* matrix of F64 and shape"),
        (spoil, r"hold NaN or infinite numbers: .*'model.layers.1.mlp.down_proj'; write the file"),
        (another, r"written for a model with another fingerprint \('zoo:maths'\); write a file"),
        (fewer, r"tensor 'model.layers.0.mlp.down_proj.weight' for some sources, but not of 'zoo:"),
        (strange, r"are incomplete: 'zoo:maths' has no weight 'model.layers.99.mlp.down_proj"),
        (bare, r"has no 'tokens'; write the file again"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(folder: Path, change: Any, message: str) -> None:
    file = folder / "maths.safetensors"
    changed(file, file, change)
    with pytest.raises(InputError, match=message):
        evomerge.merge(folder / "regmean.yaml", folder / "out")
    assert not (folder / "out").exists()


def test_other_files_in_its_place_are_refused(folder: Path) -> None:
    file = folder / "maths.safetensors"
    save_file({"a": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match="was not written by `evomerge grams`"):
        evomerge.merge(folder / "regmean.yaml", folder / "out")
    file.write_bytes(b"nothing")
    with pytest.raises(CheckpointError, match="is not a complete safetensors file"):
        evomerge.merge(folder / "regmean.yaml", folder / "out")
    file.unlink()
    with pytest.raises(CheckpointError, match=r"of 'zoo:maths' are missing, since there is no fil"):
        evomerge.merge(folder / "regmean.yaml", folder / "out")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {
                "models": [
                    {"model": "zoo:maths", "grams": "maths.safetensors"},
                    {"model": "zoo:base"},
                ]
            },
            "regmean needs the Gram matrices of 'zoo:base'; write them with `evomerge grams`",
        ),
        ({"parameters": {"alpha": 1.5}}, "'alpha' of the merge is 1.5; it must be a number from 0"),
        ({"models": [{"model": "zoo:maths", "grams": 3}]}, r"models\[0\].grams` is 3; it must be"),
    ],
)
def test_a_mergekit_file_that_lacks_something_is_refused(
    folder: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        evomerge.merge(mergekit(folder, **changes), folder / "out")


def test_files_that_no_method_uses_are_an_error_or_a_warning(folder: Path) -> None:
    file = mergekit(folder, merge_method="linear", parameters={"weight": 0.5})
    first, _ = merge_recipe(file, folder / "out", "8GB", "5GB")
    assert re.match(r"Key 'grams' in `models\[0\]` is ignored, as in mergekit; remove it", first)
    recipe = Recipe.from_yaml((folder / "out/evomerge_recipe.yaml").read_text()).to_dict()
    grams = {"zoo:maths": "maths.safetensors"}
    (folder / "ours.yaml").write_text(yaml.safe_dump({**recipe, "grams": grams}))
    with pytest.raises(RecipeError, match=r"none of its methods \(linear\) uses them; remove"):
        evomerge.merge(folder / "ours.yaml", folder / "out2")


def test_the_methods_of_a_search_cannot_use_them(tmp_path: Path) -> None:
    space = {"kind": "parameters", "method": "regmean", "groups": "one"}
    with pytest.raises(ConfigError, match=r"`space.method` is 'regmean'.*; make the merge a paren"):
        prepare(parse({**SMALL, "space": space}, "search"), tmp_path)


def test_a_search_has_it_as_a_parent_and_builds_it_again_or_says_what_is_missing(
    folder: Path,
) -> None:
    (folder / "search.yaml").write_text(
        yaml.safe_dump({**SMALL, "parents": ["zoo:facts", "merge:regmean.yaml"]})
    )
    run, _ = begin(folder / "run", prepare(load(folder / "search.yaml"), folder))

    def built() -> Path:
        checkpoints = reopen(run).checkpoints
        return next(item.folder for name, item in checkpoints.items() if "regmean" in name)

    first = built()
    assert first.parent == run.path / "models"
    weights = (first / "model.safetensors").read_bytes()
    evomerge.merge(folder / "regmean.yaml", folder / "by-hand")
    assert (folder / "by-hand/model.safetensors").read_bytes() == weights

    (folder / "regmean.yaml").unlink()
    shutil.rmtree(first)
    assert (built() / "model.safetensors").read_bytes() == weights

    (folder / "maths.safetensors").rename(folder / "aside")
    moved = RunFolder(run.path.rename(folder / "moved"))
    reopen(moved)  # what is built needs no file
    shutil.rmtree(moved.path / "models" / first.name)
    missing = r"cannot be built: The Gram matrices of 'zoo:maths' are missing, since there is no f"
    with pytest.raises(CheckpointError, match=missing):
        reopen(moved)
    shutil.copyfile(folder / "language.safetensors", folder / "maths.safetensors")
    with pytest.raises(CheckpointError, match=r"cannot be built: .* another fingerprint"):
        reopen(moved)
    changed(
        folder / "aside",
        folder / "maths.safetensors",
        lambda matrices, content: content.update(tokens=1),
    )
    with pytest.raises(CheckpointError, match=r"are to have the SHA-256 .*; put the old file back"):
        reopen(moved)
    (folder / "aside").replace(folder / "maths.safetensors")
    reopen(moved)
    again = moved.path / "models" / first.name / "model.safetensors"
    assert again.read_bytes() == weights


def test_documents_of_a_file_find_their_files(folder: Path) -> None:
    text = (folder / "regmean.yaml").read_text()
    outer = {
        "merge_method": "linear",
        "models": [
            {"model": name, "parameters": {"weight": 0.5}} for name in ("inner", "zoo:base")
        ],
        "dtype": "float32",
    }
    (folder / "two.yaml").write_text(f"name: inner\n{text}---\n{yaml.safe_dump(outer)}")
    evomerge.merge(folder / "two.yaml", folder / "two")
    evomerge.merge(folder / "regmean.yaml", folder / "inner")
    inner, base, two = (
        load_file(path / "model.safetensors")
        for path in (folder / "inner", zoo.path("base"), folder / "two")
    )
    for name, tensor in two.items():
        torch.testing.assert_close(tensor, (inner[name] + base[name].float()) / 2)


@pytest.mark.parametrize("architecture", ["gpt2", "qwen3_moe"])
def test_other_architectures(architecture: str, tmp_path: Path) -> None:
    """GPT-2 stores weights as (inputs, outputs); fused experts have no linear layer."""
    base = make(tmp_path / "base", architecture)
    models = [
        {
            "model": str(make(tmp_path / name, architecture, seed=seed, near=base)),
            "grams": f"{name}.safetensors",
        }
        for seed, name in enumerate(NAMES, 1)
    ]
    for item in models:
        done = written(tmp_path / item["grams"], item["model"], documents=2)
    content = content_of(tmp_path / item["grams"])
    parent = Checkpoint.open(Path(item["model"]), "parent")
    inside = [
        name
        for name, info in parent.tensors.items()
        if name.startswith(f"{parent.main.prefix}.") and len(info.shape) > 1
    ]
    assert sorted([*content["weights"], *done.without]) == sorted(
        [*inside, *([parent.head] if parent.head else [])]
    )
    turned = content["transposed"]
    assert turned == (list(content["weights"]) if architecture == "gpt2" else [])
    evomerge.merge(mergekit(tmp_path, models=models), tmp_path / "out")
    merged = load_file(tmp_path / "out/model.safetensors")
    sources = [load_file(Path(item["model"]) / "model.safetensors") for item in models]
    grams = [load_file(tmp_path / item["grams"]) for item in models]
    for name in [*content["weights"], *done.without]:
        weights = [source[name].double() for source in sources]
        expected = sum(weights) / 2
        if name in content["weights"]:
            if name not in turned:
                weights, expected = [weight.T for weight in weights], expected.T
            own = [gram[content["weights"][name]].double() for gram in grams]
            own = [0.9 * gram + 0.1 * torch.diag(gram.diagonal()) for gram in own]
            right = sum(g @ (w - expected) for g, w in zip(own, weights, strict=True))
            expected = expected + torch.linalg.pinv(sum(own), hermitian=True) @ right
            expected = expected if name in turned else expected.T
        torch.testing.assert_close(merged[name].double(), expected, rtol=1e-3, atol=1e-4)


def test_a_weight_that_gives_nan_is_refused(tmp_path: Path) -> None:
    model = make(tmp_path / "model")

    def spoil_weights(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.layers.1.mlp.up_proj.weight"].fill_(3e38)

    rewrite(model, spoil_weights)
    with pytest.raises(
        CheckpointError, match=r"The inputs of layer 'model.layers.1.mlp.down_proj'"
    ):
        written(tmp_path / "out.safetensors", str(model), documents=2)
    assert not list(tmp_path.glob("*out.safetensors*"))


def test_the_command_says_what_it_wrote_and_refuses_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "search.yaml"
    # A parent may be the merge that the matrices are for, so parents are not opened.
    parents = ["zoo:language", "merge:not-there-yet.yaml"]
    file.write_text(yaml.safe_dump({**SMALL, "parents": parents}))
    out = tmp_path / "new/grams.safetensors"
    arguments = ["grams", "zoo:base", "--config", str(file), "--out", str(out), "--documents", "4"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert re.search(
        r"25 Gram matrices for 43 weights, from 4 documents\s+of zoo_l2_maths \(\d+ t",
        " ".join(result.output.split()),
    )
    for more, message in (
        ([], "exists already; name another file"),
        (["--task", "zoo_maths"], "--task is 'zoo_maths', but the search file has zoo_l2_maths"),
    ):
        if more:
            out.unlink()
        failed = CliRunner().invoke(app, [*arguments, *more])
        assert isinstance(failed.exception, InputError)
        assert message in str(failed.exception)
