"""A search file can be checked from Python."""

import json
from pathlib import Path

import pytest
import tiny
from search_run import SMALL, problem_of, search_over, write_search

import evomerge
from evomerge import zoo
from evomerge.__main__ import run
from evomerge.api.models import score_model
from evomerge.errors import ConfigError


def test_the_answer_is_that_of_a_file_and_a_mistake_is_an_error(tmp_path: Path) -> None:
    found, of_file = evomerge.validate(SMALL), evomerge.validate(write_search(tmp_path))
    assert found["valid"] and found["dimension"] == 8 and isinstance(found["warnings"], list)
    assert of_file | {"free_memory": found["free_memory"]} == found  # it differs from now to then
    with pytest.raises(ConfigError, match=r"Did you mean .seed."):
        evomerge.validate(SMALL | {"sede": 1})


def test_genes_have_short_names_of_folders(tmp_path: Path) -> None:
    folders = SMALL | {"parents": [str(zoo.path(name)) for name in ("language", "maths")]}
    found = evomerge.validate(folders)["genes"]
    assert [gene["name"].split(".")[1] for gene in found[:2]] == ["language", "maths"]
    swaps = folders | {"space": {"kind": "dataflow", "variant": "swaps"}}
    assert evomerge.validate(swaps)["genes"][0]["choices"] == ["language", "maths"]
    told = {"objectives": [{"told": "wins"}], "evaluation": {}}
    with evomerge.Study(folders | told, run=tmp_path / "run") as study:
        asked = next(asked for asked in study if asked.genes)
        assert "embeddings.maths.weight" in asked.genes
        assert study.genes(asked.number) == asked.genes


def test_prompts_before_a_search_are_those_that_are_scored(tmp_path, capsys):
    host = tiny.copy_of("base", tmp_path / "host", tiny.OTHER)
    data = search_over(["zoo:language", "zoo:maths"], host, chat=True)
    data["objectives"] += [{"task": "zoo_l2", "metric": "exact_match"}]
    data["evaluation"] |= {"fewshot": 2, "include": ["zoo:tasks"]}
    shown = evomerge.documents(data, count=2)
    examples = score_model(problem_of(data), str(host), "search", 2).scores.examples
    columns = ["task", "document", "prompt", "target"]
    assert shown[columns].to_numpy().tolist() == [
        [example.task, example.document, example.prompt, example.target] for example in examples
    ]
    assert len(shown) == 4 and all("eats" in prompt for prompt in shown["prompt"])
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps(data))
    capsys.readouterr()
    assert run(["validate", str(file), "--show", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"  prompt: {shown['prompt'][0]!r}" in lines and "  answer: ''" not in lines
