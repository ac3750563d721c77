"""Text files of a model that are larger than any real one are refused before they are read."""

import json
import shutil

import pytest

from evomerge import zoo
from evomerge.errors import CheckpointError
from evomerge.models import safetensors
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import largest_size

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "model.safetensors.index.json", "chat_template.jinja"],
)
def test_a_large_file_is_refused_before_anything_is_read(tmp_path, monkeypatch, name):
    folder = shutil.copytree(zoo.path("base"), tmp_path / "model")
    enlarge(folder / "trainer_state.json")  # nobody reads it
    assert Checkpoint.open(folder, "own").parameters
    enlarge(folder / name)
    enlarge(tmp_path / "adapter_config.json")
    monkeypatch.setattr(safetensors, "read_text", None)
    size, largest = largest_size(name) + 1, largest_size(name)
    with pytest.raises(
        CheckpointError, match=f"{name} has {size:,} bytes, and at most {largest:,}"
    ):
        Checkpoint.open(folder, "stranger")
    with pytest.raises(CheckpointError, match="at most 4,000,000"):
        safetensors.read_json(tmp_path / "adapter_config.json")


def enlarge(file):
    """Make a file one byte too large; the bytes that are added need no room on the disk."""
    file.touch()
    with file.open("r+b") as stream:
        stream.truncate(largest_size(file.name) + 1)


def test_files_of_the_largest_models_are_within_the_limits():
    experts = [f"model.layers.{layer}.experts.{n}" for layer in range(61) for n in range(3 * 384)]
    shard = "model-00061-of-000062.safetensors"
    index = json.dumps({"weight_map": dict.fromkeys(experts, shard)}, indent=2)
    assert len(index) * 4 < largest_size("model.safetensors.index.json")
    labels = {"id2label": {number: f"a label of ImageNet {number}" for number in range(22_000)}}
    assert len(json.dumps(labels, indent=2)) * 3 < largest_size("config.json")
    assert largest_size("tokenizer.json") > 4 * 40_000_000
