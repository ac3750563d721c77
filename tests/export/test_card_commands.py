"""The command that a model card prints gives the model, for each kind of parent."""

import re
import shlex
import shutil
from pathlib import Path

import peft
import pytest
import torch
from search_run import SMALL
from transformers import AutoModelForCausalLM

import evomerge
from evomerge import zoo
from evomerge.__main__ import run as call

pytestmark = pytest.mark.thorough

KINDS = {
    "zoo": {},
    "folder": {"parents": ["./maths", "language"], "base": "base"},
    "adapter": {"parents": ["base+lora", "./maths"], "base": "./base"},
    "path": {"parents": ["./language", "maths"], "base": None, "space": {"kind": "dataflow"}},
    "union": {"parents": ["./language", "maths"], "base": "./base", "tokenizer": "union"},
}


def files(model: Path) -> dict[str, bytes]:
    """Return what the model is made of; the card and the recipes name other folders."""
    told = ("README.md", "recipe.svg", "evomerge_recipe.yaml", "mergekit_config.yml")
    return {item.name: item.read_bytes() for item in model.iterdir() if item.name not in told}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_command_of_the_card_gives_the_model(tmp_path, monkeypatch, kind):
    for name in ("maths", "language", "base"):
        shutil.copytree(zoo.path(name), tmp_path / "here" / name)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "here" / "base")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, settings).save_pretrained(tmp_path / "here" / "lora")
    shutil.copytree(tmp_path / "here", tmp_path / "there")
    monkeypatch.chdir(tmp_path / "here")
    config = SMALL | {"budget": {"candidates": 7}} | KINDS[kind]
    last = config["budget"]["candidates"] - 1
    run = evomerge.search(config, run="run", progress=False)
    model = run.export("model", last).absolute()

    monkeypatch.chdir(tmp_path / "there")
    block = re.search(r"```\n(evomerge merge .*?)\n```", (model / "README.md").read_text())
    shutil.copy(model / "evomerge_recipe.yaml", ".")
    assert call(shlex.split(block[1])[1:]) == 0
    assert files(Path("MODEL_DIR")) == files(model)
