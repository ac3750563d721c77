"""Text files of a model that are larger than any real one are refused before they are read."""

import json
import shutil
from pathlib import Path

import pytest

from evomerge import zoo
from evomerge.errors import CheckpointError
from evomerge.models import files, safetensors
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import check_sizes, largest_size

pytestmark = pytest.mark.thorough

NAMES = [
    "config.json",
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
    "model.safetensors.index.json",
    "chat_template.jinja",
]


def enlarge(file: Path) -> None:
    """Make a file one byte too large; the bytes that are added need no room on the disk."""
    file.touch()
    with file.open("r+b") as stream:
        stream.truncate(largest_size(file.name) + 1)


@pytest.mark.parametrize("name", NAMES)
def test_a_large_file_is_refused_before_anything_is_read(tmp_path, monkeypatch, name):
    folder = tmp_path / "model"
    shutil.copytree(zoo.path("base"), folder)
    enlarge(folder / name)
    monkeypatch.setattr(safetensors, "read_text", None)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder, "stranger")
    size, largest = largest_size(name) + 1, largest_size(name)
    assert f"{folder / name} has {size:,} bytes, and at most {largest:,}" in str(caught.value)


def test_a_large_adapter_config_is_refused(tmp_path, monkeypatch):
    enlarge(tmp_path / "adapter_config.json")
    monkeypatch.setattr(safetensors, "read_text", None)
    with pytest.raises(CheckpointError, match="at most 4,000,000"):
        safetensors.read_json(tmp_path / "adapter_config.json")


def test_files_that_nobody_reads_may_be_large(tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(zoo.path("base"), folder)
    enlarge(folder / "trainer_state.json")
    assert Checkpoint.open(folder, "own").parameters


def test_files_of_the_largest_models_are_within_the_limits(tmp_path, monkeypatch):
    tensors = [
        f"language_model.model.layers.{layer}.mlp.experts.{expert}.{kind}_proj.weight"
        for layer in range(61)
        for expert in range(384)
        for kind in ("gate", "up", "down")
    ]
    index = {"weight_map": dict.fromkeys(tensors, "model-00061-of-000062.safetensors")}
    assert len(json.dumps(index, indent=2)) * 4 < largest_size("model.safetensors.index.json")
    labels = {"id2label": {number: f"a label of ImageNet {number}" for number in range(22_000)}}
    assert len(json.dumps(labels, indent=2)) * 3 < largest_size("config.json")
    assert largest_size("tokenizer.json") > 4 * 40_000_000
    (tmp_path / "config.json").write_text("{}")
    monkeypatch.setattr(files, "_SMALL", 2)
    check_sizes([tmp_path / "config.json"])
