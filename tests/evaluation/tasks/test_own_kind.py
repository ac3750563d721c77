"""A package adds a kind of objective: it is searched, resumed, exported and scored as ours are."""

import json
from pathlib import Path

import pytest

import evomerge
from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.problem.preflight import summary
from evomerge.problem.runs import prepare

PACKAGE = Path(__file__).parents[2] / "data" / "own_kind"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with rows, where the package is installed."""
    monkeypatch.syspath_prepend(PACKAGE)
    rows = [
        {"prompt": f"tom has {one} apples . buys {two} . howmany now ? :", "word": str(one + two)}
        for one in range(2, 8)
        for two in range(1, 7)
        if one + two < 10
    ]
    (tmp_path / "sums.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def search_file(folder, **objective):
    item = {"kind": "contains", "file": "sums.jsonl", "metric": "share", **objective}
    return {
        "parents": ["zoo:language", "zoo:maths"],
        "base": "zoo:base",
        "dtype": "float32",
        "space": {"method": "task_arithmetic", "groups": 1, "knobs": {"weight": [0.0, 1.5]}},
        "objectives": [{key: value for key, value in item.items() if value is not None}],
        "evaluation": {
            "search": {"documents": 8},
            "validation": {"documents": 6, "finalists": 1},
            "test": {"documents": 6},
        },
        "budget": {"candidates": 6},
    }


def problem(folder, **objective):
    return prepare(parse(search_file(folder, **objective), "search.yaml"), folder)


def outcome(candidate):
    """Return what must be the same in a search that went on."""
    return candidate.digest, candidate.first_outcome.values, candidate.first_outcome.aggregates


@pytest.mark.thorough
def test_a_search_for_a_kind_of_a_package_goes_on_and_its_export_has_its_score(folder, monkeypatch):
    monkeypatch.chdir(folder)
    config = search_file(folder)
    whole = evomerge.search(config, folder / "whole", progress=False)
    evomerge.search(config, folder / "run", candidates=4, progress=False)
    run = evomerge.resume(folder / "run", candidates=6, progress=False)
    assert [outcome(item) for item in run.history.candidates] == [
        outcome(item) for item in whole.history.candidates
    ]
    run.export(folder / "model")
    found = evomerge.evaluate(folder / "model", folder / "run" / "search.yaml", split="test")
    assert {key: item.value for key, item in found.items()} == {
        "contains sums/share": run.best.scores("test").aggregates["contains sums/share"]
    }
    (folder / "sums.jsonl").write_text('{"prompt": "a", "word": "b"}\n' * 40)
    with pytest.raises(ConfigError, match="are not the same; restore its files"):
        evomerge.evaluate(folder / "model", folder / "run" / "search.yaml")


def test_its_words_are_told(folder):
    told = summary(problem(folder))
    assert told["contains"] == "answers of zoo:base and its like are searched"


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        (
            {"kind": "contain"},
            r"Unknown kind of objective 'contain'; available are .*contains\. Did",
        ),
        ({"metric": "acc"}, "has no metric 'acc'; it has length, share"),
        ({"metric": None}, "has the `kind` contains without a `metric`; name one"),
        ({"file": None}, "has the `kind` contains without a `file`; name a file of rows"),
        ({"file": "gone.jsonl"}, "gone.jsonl does not exist"),
        ({"kind": None, "file": None, "task": "contains"}, "'contains' is <class .* by `kind`"),
    ],
)
def test_a_mistake_is_one_sentence(folder, objective, words):
    with pytest.raises(ConfigError, match=words):
        problem(folder, **objective)
