"""A failed candidate is a row marked as failed; the search goes on and can be resumed."""

import json

import pytest
from search_run import evomerge, evomerge_json, write_search

pytestmark = pytest.mark.thorough

OBJECTIVE = '''
import os

CALLS = {"n": 0}

def judge(model, tokenizer, documents):
    """Mean size of the first weights; every third model cannot be judged."""
    CALLS["n"] += 1
    weight = next(model.parameters()).detach()
    spread = float(weight.abs().mean())
    if int(spread * 1e6) % 3 == 0 and "FINE" not in os.environ:
        raise ValueError("this model cannot be judged")
    return {"size": [spread] * len(documents)}

judge.documents = 12
judge.metrics = {"size": True}
'''


def test_failures_are_rows(tmp_path):
    (tmp_path / "judging.py").write_text(OBJECTIVE)
    file = write_search(
        tmp_path,
        objectives=[{"task": "judging:judge", "metric": "size"}],
        evaluation={
            "search": {"documents": 4},
            "validation": {"documents": 4, "finalists": 2},
            "test": {"documents": 4},
        },
    )
    run = tmp_path / "run"
    evomerge("search", file, "--run", run, PYTHONPATH=str(tmp_path))
    rows = evomerge_json("results", run)["candidates"]
    failed = [row for row in rows if row["status"] == "failed"]
    scored = [row for row in rows if row["status"] == "scored"]
    assert len(rows) == 22
    assert failed
    assert scored
    assert all("cannot be judged" in row["failure"] for row in failed)
    assert all(row["fitness"] is None for row in failed)
    before = (run / "journal.jsonl").read_bytes()
    evomerge("resume", run, PYTHONPATH=str(tmp_path))
    assert (run / "journal.jsonl").read_bytes() == before


def test_a_merge_that_fails_is_a_row(tmp_path):
    """Weights with the sum 0 cannot be normalised; a grid search tries such weights."""
    file = write_search(
        tmp_path,
        base=None,
        space={
            "kind": "parameters",
            "method": "linear",
            "knobs": {"weight": [0.0, 1.0]},
            "embeddings": False,
        },
        optimizer={"name": "grid"},
        budget={"candidates": 9},
    )
    evomerge("search", file, "--run", tmp_path / "run")
    rows = evomerge_json("results", tmp_path / "run")["candidates"]
    failed = [row for row in rows if row["status"] == "failed"]
    assert [row["failure"].split(":")[0] for row in failed] == ["merge"]
    assert len(rows) == 9


def test_a_search_where_nothing_can_be_scored_says_why(tmp_path):
    (tmp_path / "judging.py").write_text(
        OBJECTIVE.replace("% 3 == 0", "% 1 == 0 and documents[1:]")
    )
    file = write_search(
        tmp_path,
        objectives=[{"task": "judging:judge", "metric": "size"}],
        evaluation={name: {"documents": 4} for name in ("search", "validation", "test")},
        budget={"candidates": 5},
    )
    done = evomerge("search", file, "--run", tmp_path / "run", code=1, PYTHONPATH=str(tmp_path))
    assert "cannot be judged" in done.stderr
    status = json.loads(evomerge("status", tmp_path / "run", "--json").stdout)
    assert status["failed"] == 5


def test_a_search_without_any_right_answer_says_so(tmp_path):
    parents = ["zoo:maths", "zoo:facts"]
    file = write_search(tmp_path, parents=parents, budget={"candidates": 4})
    said = evomerge("search", file, "--run", tmp_path / "run").stderr
    assert said.count("warning: all baselines have the same fitness,") == 1
    assert said.count("prompt:") == said.count("target:") == 3
    assert "warning: all candidates have the same fitness," in said
    assert "all baselines have the same fitness" in (tmp_path / "run" / "log.txt").read_text()
