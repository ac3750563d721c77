"""Every byte of the parents' weights is recorded while a search runs, and compared at an export."""

import json
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from search_run import SMALL, evomerge, write_search

from evomerge import zoo
from evomerge.errors import CheckpointError, RunFolderError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.fingerprint import file_digest, promised_digest
from evomerge.run.folder import RunFolder
from evomerge.setup.weight_digests import WEIGHTS, check_weights, recording_weights

LARGE = "model.layers.3.mlp.up_proj.weight"


def edit_between_samples(folder):
    """Change one weight that no sample of the fingerprint covers."""
    before = Checkpoint.open(folder, "x").fingerprint
    info = Checkpoint.open(folder, "x").tensors[LARGE]
    data = bytearray(info.file.read_bytes())
    place = info.begin + 4096 + 4 * 100  # right behind the first sample of 4 KiB
    data[place : place + 4] = b"\0\0\x80\x3f"  # 1.0
    info.file.write_bytes(data)
    assert Checkpoint.open(folder, "x").fingerprint == before
    with safe_open(info.file, "pt") as file:
        assert 1.0 in file.get_tensor(LARGE)


def made(tmp_path):
    """Return a run with two parents."""
    parents = {}
    for name in ("language", "maths"):
        shutil.copytree(zoo.path(name), tmp_path / name)
        parents[name] = Checkpoint.open(tmp_path / name, name)
    return RunFolder.create(tmp_path / "run", SMALL), parents


def recorded(run):
    return json.loads((run.path / WEIGHTS).read_text())


def test_one_weight_between_the_samples_is_noticed_at_the_export(tmp_path):
    shutil.copytree(zoo.path("maths"), tmp_path / "maths")
    file = write_search(
        tmp_path,
        parents=["zoo:language", str(tmp_path / "maths")],
        budget={"candidates": 4},
        evaluation=SMALL["evaluation"] | {"search": {"documents": 2}, "test": {"documents": 2}},
    )
    evomerge("search", file, "--run", tmp_path / "run")
    original = (tmp_path / "maths/model.safetensors").read_bytes()
    edit_between_samples(tmp_path / "maths")
    export = ("export", tmp_path / "run", "--candidate", "2", "--out", tmp_path / "out")
    said = evomerge(*export, code=2).stderr.strip()
    assert "has changed since the run was started: model.safetensors has other weights" in said
    assert said.count("\n") == 0
    assert not (tmp_path / "out").exists()
    (tmp_path / "maths/model.safetensors").write_bytes(original)
    evomerge(*export)


def test_digests_are_those_of_the_files_and_are_computed_once(tmp_path, monkeypatch):
    run, parents = made(tmp_path)
    with recording_weights(run, parents):
        pass
    before = recorded(run)
    for name in parents:
        found = before[name]["model.safetensors"]
        assert found["sha256"] == file_digest(zoo.path(name) / "model.safetensors")
    monkeypatch.setattr("evomerge.setup.weight_digests.file_digest", lambda file: 1 / 0)
    with recording_weights(run, parents):
        pass
    assert recorded(run) == before


def test_what_a_killed_session_has_not_recorded_is_recorded_by_the_next(tmp_path, monkeypatch):
    run, parents = made(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr("evomerge.setup.weight_digests._compute", lambda *args: None)
        with pytest.raises(KeyboardInterrupt), recording_weights(run, parents):
            raise KeyboardInterrupt
    check_weights(run, parents)  # nothing is known yet
    edit_between_samples(tmp_path / "maths")
    with recording_weights(run, parents):
        pass
    check_weights(run, parents)
    edit = Path(tmp_path / "language/model.safetensors")
    edit.write_bytes(edit.read_bytes()[:-1] + b"\1")
    with pytest.raises(CheckpointError, match="'language' has changed"):
        check_weights(run, parents)


def test_a_file_of_the_hubs_cache_has_its_digest_in_its_name(tmp_path):
    name = "a" * 64
    blob = tmp_path / "blobs" / name
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots/1/model.safetensors"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    assert promised_digest(link) == name
    assert promised_digest(zoo.path("maths") / "model.safetensors") is None


@pytest.mark.parametrize("text", ["", "[]", '{"a": {"b": "c"}}'])
def test_a_damaged_record_is_refused(tmp_path, text):
    run, parents = made(tmp_path)
    (run.path / WEIGHTS).write_text(text)
    with pytest.raises(RunFolderError, match=r"weights.json is not what evomerge has written"):
        check_weights(run, parents)
