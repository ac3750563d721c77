"""What commands say of files: search files that `init` writes and `validate` reads, and merges."""

import json
import subprocess
import sys

import pytest
import yaml
from search_run import SMALL, environment, write_search
from tiny import make

import evomerge as api
from evomerge.__main__ import run
from evomerge.config.schema import load
from evomerge.errors import EvomergeError
from evomerge.problem.runs import prepare


def test_more_few_shot_examples_than_there_are_documents(tmp_path):
    rows = [{"q": str(i), "a": str(i % 3)} for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    files = {"data_files": {"test": str(tmp_path / "rows.jsonl")}}
    task = {"task": "own", "dataset_path": "json", "dataset_kwargs": files, "test_split": "test"}
    task |= {"fewshot_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "{{a}}"}
    task |= {"output_type": "generate_until", "metric_list": [{"metric": "exact_match"}]}
    (tmp_path / "own.yaml").write_text(json.dumps(task))
    own = {"objectives": [{"task": "own", "metric": "exact_match"}]}
    few = {split: {"documents": 5} for split in ("search", "validation", "test")}

    def check(count):
        evaluation = {"include": [str(tmp_path)], "fewshot": count, **few}
        prepare(load(write_search(tmp_path, **own, evaluation=evaluation)), tmp_path)

    check(39)
    with pytest.raises(EvomergeError, match="is to show 40 few-shot examples, but has 40"):
        check(40)


def test_a_mergekit_file_with_different_vocabularies(tmp_path):
    """The message has the key of the file at hand."""
    parents = [str(make(tmp_path / "a")), str(make(tmp_path / "b", vocab_size=80))]
    models = [{"model": parent, "parameters": {"weight": 0.5}} for parent in parents]
    data = {"merge_method": "linear", "dtype": "float32", "models": models, "mine": 1}
    (tmp_path / "merge.yml").write_text(json.dumps(data))
    with pytest.raises(EvomergeError, match="tokenizer_source: union"):
        api.merge(tmp_path / "merge.yml", tmp_path / "out")
    with pytest.warns(UserWarning, match=r"mine|cut to 48"):
        api.merge(tmp_path / "merge.yml", tmp_path / "out", truncate=True)
    assert json.loads((tmp_path / "out" / "config.json").read_text())["vocab_size"] == 48


def test_validate_names_other_knobs_and_warns_of_a_budget_for_the_baselines_alone(tmp_path, capsys):
    space = SMALL["space"] | {"method": "dare_ties", "knobs": {"weight": [0.0, 1.5]}}
    file = write_search(tmp_path, space=space, budget={"candidates": 3})
    assert run(["validate", str(file)]) == 0
    told = capsys.readouterr()
    rows = [line.split("\t") for line in told.out.splitlines()]
    named = {row[0]: row[1:] for row in rows if len(row) == 5}
    assert named["weight"] == ["8", "0 to 1.5", "0.75", "space.knobs.weight"]
    assert named["density"][3] == "the method's range; space.knobs.density fixes it"
    assert "0 are searched; set it to 12 or more" in told.err


@pytest.mark.parametrize("preset", ["parameters", "multi", "dataflow", "lorahub", "gradient"])
def test_presets_are_valid(tmp_path, preset):
    assert run(["init", str(tmp_path / "s.yaml"), "--preset", preset]) == 0
    prepare(load(tmp_path / "s.yaml"), tmp_path)


HEAVY = ("torch", "lm_eval", "nevergrad", "transformers", "matplotlib", "huggingface_hub.hf_api")
LIGHT = [["--help"], ["--version"], ["schema"]]
LIGHT += [["list", what] for what in ("methods", "optimizers", "parents")]
LIGHT += [["compare", "zoo:language", "zoo:maths", "--base", "zoo:base"]]
IMPORTED = """
import json, sys
from evomerge.__main__ import run
commands, names = json.loads(sys.argv[1])
found = {}
for arguments in commands:
    assert run(arguments) == 0
    found |= {name: arguments for name in names if name in sys.modules and name not in found}
assert found == {}, found
"""


def test_light_commands_and_an_ordinary_merge_import_nothing_heavy(tmp_path):
    models = [{"model": f"zoo:{name}"} for name in ("maths", "language")]
    merge = {"merge_method": "dare_ties", "base_model": "zoo:base", "models": models}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump(merge))
    more = ["merge", str(tmp_path / "merge.yaml"), "--out", str(tmp_path / "out")]
    words = [sys.executable, "-c", IMPORTED, json.dumps([[*LIGHT, more], HEAVY])]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    assert f"evomerge {api.__version__}\n" in done.stdout
    assert (tmp_path / "out" / "README.md").is_file()
