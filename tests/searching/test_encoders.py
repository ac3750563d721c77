"""Searches over sentence encoders whose parents differ, and their files of rows."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import small_models
import tiny
from safetensors.torch import load_file
from search_run import searched

import evomerge
from evomerge.errors import CheckpointError, ConfigError

sentence_transformers = pytest.importorskip("sentence_transformers")

STS = [{"encoder": "sts", "file": "rows/pairs.jsonl"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoders")
    for name in ("rows", "encoder-two"):
        small_models.make(folder, name)
    return folder


def write(folder: Path, *parents: str, **changes: Any) -> Path:
    parents = parents or ("encoder-one", "encoder-two")
    return small_models.write_tiny(folder, parents, **{"objectives": STS} | changes)


def library(folder: Path) -> Any:
    with tiny.quiet():
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def test_a_changed_file_stops_a_resume(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "all")
    run = tmp_path / "run"
    searched(write(tmp_path / "all"), run, candidates=3)
    rows = tmp_path / "all" / "rows" / "pairs.jsonl"
    rows.write_text(rows.read_text().replace('"score": 5', '"score": 6', 1))
    with pytest.raises(ConfigError, match="Task 'sts pairs' has changed since the run began"):
        evomerge.resume(run, candidates=5)


def test_differing_modules_are_named_and_parents_are_scored_as_they_are(folder, tmp_path):
    near = folder / "encoder-one"
    tiny.make_encoder(folder / "cls", seed=2, near=near, pooling="cls", length=12)
    file = write(folder, "encoder-one", "cls")
    lines = evomerge.validate(file)["warnings"]
    (told,) = [line for line in lines if "is not like the merges" in line]
    assert all(key in told for key in ("Pooling.pooling_mode", "prompts", "max_seq_length"))
    run = searched(file, tmp_path / "run")
    parent = next(item for item in run.history.candidates if item.label == str(folder / "cls"))
    alone = evomerge.evaluate(folder / "cls", run.folder / "search.yaml")
    recorded = parent.scores("test")
    assert recorded is not None and parent.as_itself == {"validation", "test"}
    assert all(-1 <= float(item.answer) <= 1 for item in recorded.examples)
    assert len(recorded.examples) == 3
    assert {key: item.value for key, item in alone.items()} == {
        key: recorded.aggregates[key] for key in alone
    }


@pytest.mark.parametrize("dense", [0, 8])
def test_a_parent_without_modules_takes_those_of_the_host(dense: int, tmp_path: Path) -> None:
    one = tiny.make_encoder(tmp_path / "one", dense=dense)
    plain = tiny.make_encoder(tmp_path / "plain", seed=2, near=one, dense=dense)
    for name in ("modules.json", "1_Pooling/config.json"):
        (plain / name).unlink()
    small_models.write_rows(tmp_path / "rows")
    file = write(tmp_path, "one", "plain")
    told = evomerge.validate(file)["warnings"]
    assert any("plain" in line and "modules.json" in line for line in told)
    run = searched(file, tmp_path / "run")
    number = next(item.number for item in run.history.candidates if item.label == str(plain))
    model, host = library(run.export(tmp_path / "model", number)), library(one)
    assert [type(module) for module in model] == [type(module) for module in host]
    if dense:
        assert model[2].linear.weight.equal(host[2].linear.weight)
    assert not np.allclose(model.encode(["w1 w2"]), host.encode(["w1 w2"]))
    with pytest.raises(CheckpointError, match=r"has no modules\.json.*space\.host"):
        evomerge.validate(write(tmp_path, "plain", "one"))
    file = write(tmp_path, "one", base="plain", space={"host": "one", "most_parents": 1})
    again = searched(file, tmp_path / "of-base")
    assert {item.status for item in again.history.candidates} == {"scored"}


def test_the_base_of_encoders_may_be_a_chat_model(tmp_path: Path) -> None:
    tiny.make(tmp_path / "chat", "llama")
    one = tiny.make_encoder(tmp_path / "one", architecture="llama", dense=0)
    tiny.make_encoder(tmp_path / "two", architecture="llama", dense=0, seed=2, near=one)
    small_models.write_rows(tmp_path / "rows")
    space = {"kind": "parameters", "host": "one", "method": "task_arithmetic", "groups": 1}
    run = searched(write(tmp_path, "one", "two", base="chat", space=space), tmp_path / "run")
    assert all(item.fitness is not None for item in run.history.candidates)
    out = run.export(tmp_path / "model", 2)
    names = ("model", "one", "two", "chat")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in names]
    assert "lm_head.weight" in weights[3] and not any("lm_head" in name for name in weights[0])
    key = "layers.1.mlp.up_proj.weight"
    merged, a, b, base = [w.get(key, w.get(f"model.{key}")).numpy() for w in weights]
    assert library(out).encode(["w1 w2"]).shape == (1, 16)
    vectors = np.stack([(a - base).ravel(), (b - base).ravel()], 1)
    shares, rest, *_ = np.linalg.lstsq(vectors, (merged - base).ravel(), rcond=None)
    assert shares == pytest.approx([shares[0]] * 2, abs=1e-4) and rest[0] < 1e-8
