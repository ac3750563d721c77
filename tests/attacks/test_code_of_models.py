"""A parent's files make no program run code: neither evomerge nor what loads the merge later."""

import json
import shutil

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge import zoo
from evomerge.__main__ import run
from evomerge.errors import CheckpointError
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint

pytestmark = pytest.mark.thorough

KERNEL = "stranger/kernel"  # transformers would download and run it
STRANGE = {
    "config.json": {
        "auto_map": {"AutoModelForCausalLM": "evil.Model"},
        "_attn_implementation": KERNEL,
        "attn_implementation": KERNEL,
        "custom_pipelines": {"text-generation": {"impl": "evil.Pipeline"}},
    },
    "tokenizer_config.json": {
        "auto_map": {"AutoTokenizer": ["evil.Slow", None]},
        "trust_remote_code": True,
    },
}


@pytest.fixture
def parent(tmp_path):
    """The zoo's base model, as a stranger has prepared it."""
    folder = shutil.copytree(zoo.path("base"), tmp_path / "parent")
    for name, more in STRANGE.items():
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(data | more))
    return folder


def test_a_merge_has_no_key_that_runs_code(parent, tmp_path, capsys):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        f"merge_method: linear\nmodels: [{{model: {parent}}}]\nparameters: {{weight: 1.0}}\n"
        "dtype: float32\n"
    )
    assert run(["merge", str(recipe), "--out", str(tmp_path / "out")]) == 0
    said = capsys.readouterr().err
    assert "config.json of" in said and "auto_map" in said and "_attn_implementation" in said
    for name, more in STRANGE.items():
        written = json.loads((tmp_path / "out" / name).read_text())
        assert not written.keys() & more.keys(), name
        assert "evil" not in json.dumps(written).lower()
    text = "tom has 7 apples ."
    merged = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert merged(text) == AutoTokenizer.from_pretrained(zoo.path("base"))(text)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.config._attn_implementation == "sdpa"


def test_neither_an_attention_of_the_config_nor_code_of_a_tokenizer_is_run(parent):
    opened = Checkpoint.open(parent, "theirs")
    assert load(opened, "cpu").config._attn_implementation == "sdpa"
    file = parent / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"tokenizer_class": "Evil"}))
    with pytest.raises(CheckpointError, match="has no tokenizer that transformers can load"):
        tokenizer_of(opened)
