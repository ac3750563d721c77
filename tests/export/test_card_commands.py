"""The commands that a model card prints give the model, for each kind of parent."""

import re
import shlex
import shutil
from pathlib import Path

import peft
import pytest
import torch
import yaml
from member_runs import THREE_TASKS
from search_run import SMALL
from transformers import AutoModelForCausalLM

import evomerge
from evomerge import zoo
from evomerge.__main__ import run as call

KINDS = {
    "zoo": {},
    "folder": {"parents": ["./maths", "language"], "base": "base"},
    "adapter": {"parents": ["base+lora", "./maths"], "base": "./base"},
    "run": {"parents": ["run:first", "zoo:facts"]},
    "merge": {"parents": ["merge:outer.yaml", "zoo:maths"]},
    "merge as base": {"parents": ["merge:inner.yaml", "zoo:facts"], "base": "merge:outer.yaml"},
    "merge of a run": {"parents": ["merge:of-run.yaml", "zoo:maths"]},
    "members": {
        **THREE_TASKS,
        "parents": ["./maths", "run:first", "merge:inner.yaml"],
        "base": None,
        "optimizer": {"name": "niches"},
        "budget": {"candidates": 12},
    },
    "path": {"parents": ["./language", "maths"], "base": None, "space": {"kind": "dataflow"}},
    "union": {"parents": ["./language", "maths"], "base": "./base", "tokenizer": "union"},
}


def soup(file, *parents):
    models = [{"model": name, "parameters": {"weight": 0.5}} for name in parents]
    text = yaml.safe_dump({"models": models, "merge_method": "linear", "dtype": "float32"})
    file.write_text(text)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with models, an adapter, merges and a run."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("maths", "language", "base"):
        shutil.copytree(zoo.path(name), folder / name)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, settings).save_pretrained(folder / "lora")
    soup(folder / "inner.yaml", "./maths", "zoo:language")
    soup(folder / "outer.yaml", "merge:inner.yaml", "zoo:facts")
    soup(folder / "of-run.yaml", "run:first", "zoo:language")
    evomerge.search(SMALL | {"budget": {"candidates": 5}}, run=folder / "first", progress=False)
    return folder


def files(model: Path) -> dict[str, bytes]:
    """Return what the model is made of; the card and the recipes name other folders."""
    told = ("README.md", "recipe.svg", "evomerge_recipe.yaml", "mergekit_config.yml")
    return {item.name: item.read_bytes() for item in model.iterdir() if item.name not in told}


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_of_the_card_give_the_model(home, tmp_path, monkeypatch, kind):
    """The search file of the card names parents by the last parts of their paths."""
    for name in ("here", "there"):
        shutil.copytree(home, tmp_path / name)
    monkeypatch.chdir(tmp_path / "here")
    config = SMALL | {"budget": {"candidates": 7}} | KINDS[kind]
    last = config["budget"]["candidates"] - 1  # of niches, a merge of earlier merges
    run = evomerge.search(config, run="run", progress=False)
    model = run.export("model", last).absolute()
    assert bool(run.recipe(last).members) == (kind == "members")

    monkeypatch.chdir(tmp_path / "there")
    blocks = re.findall(r"```(\w*)\n(.*?)```", (model / "README.md").read_text(), re.DOTALL)
    commands = next(text for _, text in blocks if "evomerge merge" in text)
    Path("search.yaml").write_text(next(text for name, text in blocks if name == "yaml"))
    shutil.copy(model / "evomerge_recipe.yaml", ".")
    made = []
    for number, line in enumerate(commands.strip().splitlines()):
        words = shlex.split(line, comments=True)[1:]
        if "MODEL_DIR" in words:
            made.append(f"model-{number}")
            words[words.index("MODEL_DIR")] = made[-1]
        assert call(words) == 0, line
    assert len(made) == 2
    for item in made:
        assert files(Path(item)) == files(model), item
