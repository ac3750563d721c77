"""Model folders with names, shapes and tokens of any kind; `tests/attacks` changes their files."""

import json
import shutil

import pytest
import tiny
from attacks.targets.models import UNIGRAM, look, plan_all, tokenizer_pair, with_header
from draws import value_or_error

from evomerge.errors import CheckpointError
from evomerge.models.checkpoint import Checkpoint
from evomerge.models.safetensors import SINGLE


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.make(tmp_path_factory.mktemp("m") / "model", "llama", seed=1)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return tokenizer_pair(tmp_path_factory.mktemp("tokenizers"), UNIGRAM)


@pytest.mark.parametrize(
    ("key", "value", "needed"),
    [
        ("model_type", ["llama"], "model_type` is ['llama']; it must be text"),
        ("architectures", 5, "architectures` is 5; it must be a list"),
        ("architectures", [{}], "architectures[0]` is {}; it must be text"),
        ("vocab_size", "48", "vocab_size` is '48'; it must be a whole number from 0"),
        ("num_hidden_groups", 0, "num_hidden_groups` is 0; it must be a whole number from 1"),
    ],
)
@pytest.mark.parametrize("section", [None, "text_config"])
def test_the_keys_of_a_config_that_are_read_have_their_types(
    folder, tmp_path, section, key, value, needed
):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    config = json.loads((folder / "config.json").read_text())
    changed = {key: value} if section is None else {section: {key: value}}
    (tmp_path / "config.json").write_text(json.dumps(config | changed))
    with pytest.raises(CheckpointError) as raised:
        Checkpoint.open(tmp_path, "model")
    assert needed in str(raised.value)


@pytest.mark.parametrize(
    "name",
    ["model.layers.²", "model.layers.00", "model.layers." + "9" * 5000, "model.layers", "model.0"],
)
def test_block_numbers_of_any_spelling(tmp_path, name):
    """Digits that are no plain number, and blocks without names inside, make no stack."""
    header = {
        f"{name}{rest}": {"dtype": "F32", "shape": [1], "data_offsets": [4 * i, 4 * i + 4]}
        for i, rest in enumerate(["", ".a.weight", ".b.weight", ".c.weight", ".d.weight"])
    }
    (tmp_path / SINGLE).write_bytes(with_header(json.dumps(header).encode(), bytes(20)))
    (tmp_path / "config.json").write_text("{}")
    value_or_error(lambda: look(Checkpoint.open(tmp_path, "model")))


@pytest.mark.parametrize("name", ["chat_template.jinja", "vocab.json", "merges.txt"])
def test_tokenizer_texts_that_are_not_utf_8(pair, name):
    one, two = pair
    (two / name).write_bytes(b"\xff\xfe{{ x }}")
    plan_all(one, two)
    (two / name).unlink()
