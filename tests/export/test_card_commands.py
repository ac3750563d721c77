"""The commands that a model card prints give the model, for each kind of parent."""

import re
import shlex
import shutil
from pathlib import Path

import peft
import pytest
import torch
import yaml
from judging import SPLITS
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


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with models and an adapter."""
    folder = tmp_path_factory.mktemp("home")
    for name in ("maths", "language", "base"):
        shutil.copytree(zoo.path(name), folder / name)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(folder / "base")
    settings = peft.LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)
    peft.get_peft_model(base, settings).save_pretrained(folder / "lora")
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
    last = config["budget"]["candidates"] - 1
    run = evomerge.search(config, run="run", progress=False)
    model = run.export("model", last).absolute()

    monkeypatch.chdir(tmp_path / "there")
    made = run_commands(model)
    assert len(made) == 2
    for item in made:
        assert files(item) == files(model), item


def run_commands(model: Path) -> list[Path]:
    """Run the commands of a card in the working folder, and return the models that they make."""
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
    return list(map(Path, made))


def test_a_card_has_the_budget_that_resume_has_set(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    early = SMALL | {"budget": {"candidates": 30, "target": -1.0, "patience": 1}}
    run = evomerge.search(early, run="run", progress=False)
    begun = len(run.candidates)
    raised = ["--target", "2", "--patience", "25", "--candidates", "7"]
    assert call(["resume", "run", *raised]) == 0
    assert begun < len(evomerge.Run("run").candidates) == 7
    model = evomerge.Run("run").export("model", 6).absolute()
    monkeypatch.chdir(tmp_path / "there")
    made = run_commands(model)
    assert [files(item) == files(model) for item in made] == [True, True]
    assert len(evomerge.Run("RUN").candidates) == 7


TASK = """
task: own
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: !function own.text
doc_to_target: "{{answer}}"
generation_kwargs: {until: ["<eos>"], do_sample: false, max_gen_toks: 3}
metric_list: [{metric: exact_match}]
unsafe_code: true
"""


def test_a_card_has_the_options_that_the_search_was_given(tmp_path, monkeypatch):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(zoo.path("maths"), here / "maths")
    (here / "tasks").mkdir()
    text = TASK.replace("FILE", str(zoo.tasks_path() / "zoo_maths.jsonl"))
    (here / "tasks" / "own.yaml").write_text(text)
    (here / "tasks" / "own.py").write_text("def text(doc):\n    return doc['prompt']\n")
    shutil.copytree(here, there)
    config = SMALL | {
        "parents": ["./maths", "zoo:language"],
        "objectives": [{"task": "own", "metric": "exact_match"}],
        "evaluation": SPLITS | {"include": ["tasks"]},  # each document is a process
        "budget": {"candidates": 5},
    }
    options = ["--allow-code", "--trust-code"]
    (here / "search.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(here)
    assert call(["search", "search.yaml", "--run", "run", *options]) == 0
    assert call(["export", "run", "--out", "model", "--candidate", "4"]) == 0
    card = (here / "model" / "README.md").read_text()
    assert f"--candidates 5 {' '.join(options)}\n" in card
    assert "`--trust-code` runs the code that the search file names" in card
    monkeypatch.chdir(there)
    made = run_commands(here / "model")
    assert [files(item) == files(here / "model") for item in made] == [True, True]
