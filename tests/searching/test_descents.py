"""Searches by gradients: what a front of descents prefers, and what is refused."""

import json

import pytest
from search_run import SMALL, evomerge, searched, write_search


def small(**optimizer) -> dict:
    return {
        **SMALL,
        "optimizer": optimizer,
        "budget": {"candidates": 6},
        "executor": {"order": "generation"},
    }


@pytest.mark.thorough
def test_the_descents_of_a_front_prefer_different_objectives(tmp_path):
    data = small(name="gradient", steps=20) | {"mode": "pareto", "budget": {"candidates": 9}}
    objectives = [{"task": task, "metric": "exact_match"} for task in ("zoo_l2", "zoo_maths")]
    file = write_search(tmp_path, **data | {"objectives": objectives})
    candidates = searched(file, tmp_path / "run").history.candidates
    points = {
        item.origin["descent"]: item.scores("search").aggregates
        for item in candidates
        if "descent" in item.origin
    }
    assert points[1]["zoo_l2/exact_match"] > points[2]["zoo_l2/exact_match"]
    assert points[1]["zoo_maths/exact_match"] < points[2]["zoo_maths/exact_match"]


@pytest.mark.parametrize(
    ("optimizer", "more", "code"),
    [
        ({"name": "gradient"}, {}, 2),
        pytest.param({"name": "gradient", "loss": "experts"}, {}, 0, marks=pytest.mark.thorough),
        pytest.param({"name": "cma"}, {}, 0, marks=pytest.mark.thorough),
        ({"name": "cma"}, {"tie_breaker": "nll"}, 2),
    ],
)
def test_a_document_without_an_answer_is_found_before_the_search(optimizer, more, code, tmp_path):
    rows = [{"prompt": f"{n}", "answer": "" if n == 17 else "7"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    task = {
        "task": "answers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "answers.yaml").write_text(json.dumps(task))
    data = small(**optimizer) | {
        "objectives": [{"task": "answers", "metric": "exact_match", **more}],
        "evaluation": {
            "include": [str(tmp_path)],
            "search": {"documents": 22},
            "validation": {"documents": 1},
            "test": {"documents": 1},
        },
    }
    said = evomerge("validate", write_search(tmp_path, **data), code=code).stderr
    told = "a document of task 'answers' has no reference answer (`doc_to_target`)" in said
    assert told == (code == 2)
