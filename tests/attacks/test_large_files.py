"""Text files of a model that are larger than any real one are refused before they are read."""

import shutil

import pytest

from evomerge import zoo
from evomerge.errors import CheckpointError
from evomerge.models import safetensors
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.files import LARGEST

pytestmark = pytest.mark.thorough


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "chat.jinja"])
def test_a_large_file_is_refused_before_anything_is_read(tmp_path, monkeypatch, name):
    folder = shutil.copytree(zoo.path("base"), tmp_path / "model")
    enlarge(folder / "trainer_state.json")  # nobody reads it
    assert Checkpoint.open(folder, "own").parameters
    enlarge(folder / name)
    enlarge(tmp_path / "adapter_config.json")
    monkeypatch.setattr(safetensors, "read_text", None)
    for read in (
        lambda: Checkpoint.open(folder, "stranger"),
        lambda: safetensors.read_json(tmp_path / "adapter_config.json"),
    ):
        with pytest.raises(
            CheckpointError, match=rf"has {LARGEST + 1:,} bytes, and at most {LARGEST:,}"
        ):
            read()


def enlarge(file):
    """Make a file one byte too large; the bytes that are added need no room on the disk."""
    with file.open("ab") as stream:
        stream.truncate(LARGEST + 1)
