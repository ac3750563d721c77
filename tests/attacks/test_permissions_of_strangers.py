"""That a run folder itself allows pickles or models' code counts only where it was allowed."""

import shutil
from unittest.mock import Mock

import pytest
import torch
import yaml
from safetensors.torch import load_file
from search_run import SMALL, write_search

from evomerge import zoo
from evomerge.__main__ import run
from evomerge.config.schema import Frozen, parse
from evomerge.errors import CheckpointError
from evomerge.models import pickles
from evomerge.setup.freeze import is_permitted, keep_permission
from evomerge.trust.consent import Permissions

pytestmark = pytest.mark.thorough


@pytest.fixture
def pickled(tmp_path, monkeypatch):
    """A run that allows pickled parents, of a user of another machine."""
    monkeypatch.setenv("EVOMERGE_STATE", str(tmp_path / "theirs"))
    parent = shutil.copytree(zoo.path("maths"), tmp_path / "parent")
    torch.save(load_file(parent / "model.safetensors"), parent / "pytorch_model.bin")
    (parent / "model.safetensors").unlink()
    parents = ["zoo:language", str(parent)]
    file = write_search(tmp_path, parents=parents, budget={"candidates": 4})
    words = ["search", str(file), "--run", str(tmp_path / "run")]
    assert run([*words, "--allow-pickle"]) == 0
    assert run(["resume", str(tmp_path / "run"), "--candidates", "5"]) == 0  # allowed here
    monkeypatch.setenv("EVOMERGE_STATE", str(tmp_path / "mine"))
    return tmp_path / "run"


def test_pickles_of_a_strangers_run_are_not_read(pickled, tmp_path, monkeypatch):
    read = []
    load = pickles.load
    monkeypatch.setattr(pickles, "load", lambda file: read.append(file) or load(file))
    built_on = write_search(tmp_path, parents=["zoo:language", f"run:{pickled}"])
    for words in (
        ["resume", pickled, "--candidates", "6"],
        ["export", pickled, "--out", tmp_path / "out"],
        ["evaluate", "zoo:base", "--config", pickled / "search.yaml"],
        ["validate", built_on],
    ):
        with pytest.raises(CheckpointError, match="allow pickles with --allow-pickle"):
            run([str(word) for word in words])
    assert not read and not (tmp_path / "out").exists()
    assert run(["export", str(pickled), "--out", str(tmp_path / "out"), "--allow-pickle"]) == 0
    assert run(["resume", str(pickled), "--candidates", "6", "--allow-pickle"]) == 0
    assert read
    assert run(["resume", str(pickled), "--candidates", "7"]) == 0  # asked once


def test_a_permission_is_for_these_parents_only(tmp_path, monkeypatch):
    monkeypatch.setenv("EVOMERGE_STATE", str(tmp_path))
    allowed = Frozen(allow_pickle=True, parents={"./a": "1"})
    keep_permission(allowed, tmp_path)
    assert is_permitted(allowed)
    assert not is_permitted(allowed.model_copy(update={"parents": {"./a": "2"}}))
    assert not is_permitted(allowed.model_copy(update={"allow_code": True}))


def test_the_search_in_stages_of_a_stranger_allows_nothing_either(tmp_path, monkeypatch):
    from evomerge.setup import stages

    data = {"stages": [{}], "origin": str(tmp_path), "allow_pickle": True, "allow_code": True}
    (tmp_path / "stages.yaml").write_text(yaml.safe_dump(data))
    seen = []
    monkeypatch.setattr(stages, "_new_stage", lambda *arguments: parse(SMALL, "a stage"))
    begun = Mock(is_asked_to_stop=False)
    monkeypatch.setattr(stages, "begin", lambda path, checked: (begun, checked))
    monkeypatch.setattr(stages, "prepare", lambda file, folder, own, stage: seen.append(own))
    stages.run_stages(tmp_path, lambda run, problem: None)
    stages.run_stages(tmp_path, lambda run, problem: None, Permissions(allow_code=True))
    assert seen == [Permissions(), Permissions(allow_code=True)]
