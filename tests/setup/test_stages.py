"""A search in stages: the winner of a stage is a parent of the next; it can be resumed."""

import json
import os
import shutil
import signal

import pytest
import torch
import yaml
from safetensors.torch import load_file
from search_run import SMALL, evomerge, evomerge_json, kill_when
from tiny import make
from trusting import trust

from evomerge.config.schema import parse
from evomerge.errors import InputError
from evomerge.recipe import Recipe
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.setup import stages
from evomerge.setup.runs import prepare
from evomerge.setup.search import run_search

pytestmark = pytest.mark.thorough

STAGED = {
    "dtype": "float32",
    "objectives": SMALL["objectives"],
    "evaluation": SMALL["evaluation"],
    "stages": [
        {
            "parents": ["zoo:language", "zoo:maths"],
            "base": "zoo:base",
            "space": SMALL["space"],
            "budget": {"candidates": 12},
        },
        {
            "parents": ["stage:1", "zoo:maths"],
            "space": {"kind": "dataflow", "variant": "swaps", "scales": 1.0},
            "optimizer": {"name": "discrete-lengler"},
            "budget": {"candidates": 8},
        },
    ],
}

COUNTING = """
def count(model, tokenizer, documents):
    return [float(sum(p.detach().double().sum() for p in model.parameters()))] * len(documents)

count.documents = 6
"""

BENCHMARK = {
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "generate_until",
    "doc_to_text": "q",
    "doc_to_target": "a",
    "generation_kwargs": {"until": ["b"], "max_gen_toks": 1},
    "metric_list": [{"metric": "exact_match"}],
}


def write(folder, data=STAGED):
    (folder / "staged.yaml").write_text(yaml.safe_dump(data))
    return folder / "staged.yaml"


def test_stages_run_one_after_the_other_and_can_be_moved_and_resumed(tmp_path):
    file = write(tmp_path)
    begun, run = tmp_path / "begun", tmp_path / "a+b #1 50% é" / "run"
    journal = begun / "stage-1" / "journal.jsonl"
    assert kill_when(["search", file, "--run", begun], journal, 15, 0.0) == -signal.SIGKILL
    assert not (begun / "stage-2").exists()
    run.parent.mkdir()
    begun.rename(run)
    evomerge("resume", run)
    first = evomerge_json("results", run / "stage-1")
    rows = evomerge_json("results", run)["candidates"]
    assert len(rows) == 8
    winner = first["candidates"][first["winner"]]
    assert rows[0]["origin"] == "run:../stage-1"
    # The winner of stage 1 has the same score as a parent in stage 2.
    assert rows[0]["test zoo_l2_maths/exact_match"] == winner["test zoo_l2_maths/exact_match"]
    # A search in stages as a parent is frozen as its latest stage.
    built_on = parse({**SMALL, "parents": [f"run:{run}", "zoo:maths"]}, "search.yaml")
    assert prepare(built_on, tmp_path).config.parents[0] == f"run:{run / 'stage-2'}"

    moved = tmp_path / "moved"
    run.rename(moved)
    before = (moved / "stage-2" / "journal.jsonl").read_bytes()
    assert str(tmp_path).encode() not in before + (moved / "stage-2" / "search.yaml").read_bytes()
    evomerge("resume", moved)
    assert (moved / "stage-2" / "journal.jsonl").read_bytes() == before
    assert evomerge_json("results", moved)["candidates"] == rows
    evomerge("export", moved, "--out", tmp_path / "model", "--candidate", "0")
    recipe = Recipe.from_yaml((tmp_path / "model" / "evomerge_recipe.yaml").read_text())
    assert f"run:{moved / 'stage-1'}" in recipe.parents
    assert str(tmp_path) not in (tmp_path / "model" / "README.md").read_text()
    # The recipe of the run and that of the export give the model that was scored.
    evomerge("merge", tmp_path / "model" / "evomerge_recipe.yaml", "--out", tmp_path / "again")
    weights = [tmp_path / name / "model.safetensors" for name in ("model", "again")]
    assert weights[0].read_bytes() == weights[1].read_bytes()
    evomerge("merge", moved / "stage-2" / "best.yaml", "--out", tmp_path / "best")


def test_a_mistake_in_a_later_stage_is_found_before_the_first_stage(tmp_path):
    wrong = {**STAGED, "stages": [STAGED["stages"][0], {**STAGED["stages"][1]}]}
    wrong["stages"][1]["space"] = {"kind": "dataflow", "variant": "swap"}
    done = evomerge("search", write(tmp_path, wrong), "--run", tmp_path / "run", code=2)
    assert "stage 2" in done.stderr
    assert "Did you mean 'swaps'" in done.stderr
    assert not (tmp_path / "run").exists()
    wrong["stages"][1] = {**STAGED["stages"][1], "parents": ["stage:2", "zoo:maths"]}
    done = evomerge("validate", write(tmp_path, wrong), code=2)
    assert "'stage:2' is not an earlier stage" in done.stderr
    wrong["stages"][1] = {**STAGED["stages"][1], "parents": ["run:../stage-1", "zoo:maths"]}
    with pytest.raises(InputError, match=r"'run:../stage-1' is how .*; write `stage:N`"):
        stages.check(wrong, write(tmp_path, wrong))


def test_a_winner_can_be_a_parent_beside_the_host_of_its_stage(tmp_path):
    """zoo:base takes the place of the winner of stage 1 in the check, and is a parent too."""
    second = {
        "parents": ["stage:1", "zoo:base"],
        "space": {"kind": "parameters", "method": "slerp"},
        "budget": {"candidates": 2},
    }
    data = {**STAGED, "stages": [STAGED["stages"][0], second]}
    problem = stages.check(data, write(tmp_path, data))[1]
    assert list(problem.checkpoints) == ["stage:1", "zoo:base"]
    assert len(problem.space.genes) == 3


def test_candidates_apply_to_every_stage_and_other_bounds_stay(tmp_path):
    with_hours = {**STAGED["stages"][1], "budget": {"candidates": 8, "hours": 5}}
    data = {**STAGED, "stages": [STAGED["stages"][0], with_hours]}
    run = tmp_path / "run"
    evomerge("search", write(tmp_path, data), "--run", run, "--candidates", 4)
    for stage, hours in (("stage-1", None), ("stage-2", 5)):
        assert len(History(RunFolder(run / stage).events()).candidates) == 4
        budget = yaml.safe_load((run / stage / "search.yaml").read_text())["budget"]
        assert (budget["candidates"], budget["hours"]) == (4, hours)


@pytest.mark.parametrize("budget", [7, "much", ["candidates"]])
def test_a_budget_that_is_not_a_mapping_is_refused_with_candidates_too(tmp_path, budget):
    data = {**STAGED, "stages": [{**STAGED["stages"][0], "budget": budget}]}
    for given in (data, stages.with_candidates(data, 3)):
        with pytest.raises(InputError, match="budget"):
            stages.start(given, write(tmp_path, data), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_allow_pickle_applies_to_all_stages(tmp_path, monkeypatch):
    """It also applies to a stage that begins in a later `resume`, which has no such option."""
    folder = make(tmp_path / "pickled")
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    make(tmp_path / "one", seed=1)
    (tmp_path / "counting.py").write_text(COUNTING)
    trust(tmp_path / "counting.py")
    monkeypatch.syspath_prepend(tmp_path)
    space = {"kind": "parameters", "method": "linear"}
    data = {
        "dtype": "float32",
        "objectives": [{"task": "counting:count", "metric": "score"}],
        "evaluation": {split: {"documents": 2} for split in ("search", "validation", "test")},
        "budget": {"candidates": 3},
        "stages": [
            {"parents": ["./one"], "space": space},
            {"parents": ["stage:1", "./pickled"], "space": space},
        ],
    }
    file, run = write(tmp_path, data), tmp_path / "run"
    with pytest.raises(InputError, match="--allow-pickle"):
        stages.start(data, file, run)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    evomerge("validate", file, "--allow-pickle", PYTHONPATH=path)
    evomerge("search", file, "--run", run, "--allow-pickle", PYTHONPATH=path)
    shutil.rmtree(run / "stage-2")
    stages.run_stages(run, lambda stage, problem: run_search(problem, stage, {}))
    assert len(History(RunFolder(run / "stage-2").events()).candidates) == 3


def test_there_is_a_warning_for_the_benchmark_of_every_stage(tmp_path):
    questions = "".join(json.dumps({"q": f"w{i} b", "a": "b"}) + "\n" for i in range(120))
    (tmp_path / "documents.jsonl").write_text(questions)
    for name in ("gsm8k_own", "mbpp_own"):
        (tmp_path / f"{name}.yaml").write_text(
            yaml.safe_dump(
                {**BENCHMARK, "task": name}
                | {
                    "dataset_kwargs": {"data_files": {"test": str(tmp_path / "documents.jsonl")}},
                }
            )
        )
    data = {
        **STAGED,
        "evaluation": {**SMALL["evaluation"], "include": [str(tmp_path)]},
        "stages": [
            {**stage, "objectives": [{"task": name, "metric": "exact_match"}]}
            for stage, name in zip(STAGED["stages"], ("gsm8k_own", "mbpp_own"), strict=True)
        ],
    }
    checked = evomerge_json("validate", write(tmp_path, data))["stages"]
    for stage, name in zip(checked, ("gsm8k_own", "mbpp_own"), strict=True):
        assert [f"public benchmark {name!r}" in note for note in stage["warnings"]] == [True]
    said = evomerge(
        "search", tmp_path / "staged.yaml", "--run", tmp_path / "run", "--candidates", 2
    ).stderr
    assert "benchmark 'gsm8k_own'" in said and "benchmark 'mbpp_own'" in said


@pytest.mark.parametrize("text", ["origin: 3", "stages: []\norigin: /", "stages: [", "- 1"])
def test_a_damaged_stages_file_is_one_sentence(tmp_path, text):
    (tmp_path / "stages.yaml").write_text(text)
    with pytest.raises(InputError, match="stages"):
        stages.run_stages(tmp_path, lambda stage, problem: None)
