"""`evomerge evaluate` gives a model, with or without an adapter, the score of a search's parent."""

from pathlib import Path

import pytest
from lm_tasks import write_task
from search_run import SMALL, evomerge, evomerge_json, write_search

from evomerge.config.schema import parse
from evomerge.problem.problem import record_of
from evomerge.problem.runs import prepare
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.searching.run import evaluate, run_search

pytestmark = pytest.mark.thorough

ADAPTED = f"zoo:base+{Path(__file__).parents[2] / 'configs' / 'adapters' / 'language'}"


@pytest.mark.parametrize(
    ("space", "dtype"),
    [
        ({"kind": "parameters", "method": "task_arithmetic"}, "float32"),
        ({"kind": "dataflow", "variant": "swaps", "scales": 1.0}, "bfloat16"),
    ],
)
def test_an_adapted_model_is_scored_as_a_search_scores_it(tmp_path, space, dtype):
    data = SMALL | {
        "parents": ["zoo:maths", ADAPTED],
        "dtype": dtype,
        "space": space,
        "objectives": [{"task": "zoo_l2_maths", "metric": "nll"}],
        "budget": {"candidates": 3},
    }
    problem = prepare(parse(data, "search.yaml"), tmp_path)
    run = RunFolder.create(tmp_path / "run", "{}", record_of(problem).to_json())
    run_search(problem, run, {})
    row = next(item for item in History(run.events()).candidates if item.label == ADAPTED)
    scores = evaluate(problem, ADAPTED, "search")
    assert dict(scores.values) == dict(row.outcomes["search"].values)
    assert dict(scores.values) != dict(evaluate(problem, "zoo:base", "search").values)


def test_show_prints_documents_with_prompt_answer_and_target(tmp_path):
    file = write_search(tmp_path)
    done = evomerge("evaluate", "zoo:language", "--config", file, "--show", "2")
    said = done.stdout
    assert done.stderr == ""  # no progress bars of transformers
    assert said.count("prompt:") == said.count("answer:") == said.count("target:") == 2
    found = evomerge_json("evaluate", "zoo:language", "--config", file, "--show", "2")["examples"]
    assert all(item["prompt"] in said and item["target"] in said for item in found)
    for item in found:
        right = item["answer"].strip() == item["target"].strip()
        assert item["values"]["exact_match"] == float(right)


CORPUS = """
def by_document(values):
    numbers = {"first": values[0], "ninth": values[8]} if len(values) > 8 else {}
    return numbers["ninth"]
"""


def test_what_code_of_a_task_raises_is_one_sentence(tmp_path):
    """It was `evomerge: KeyError: 'ninth'`."""
    (tmp_path / "tasks").mkdir()
    metric = {"metric": "exact_match", "aggregation": "AGGREGATION", "higher_is_better": True}
    rows = [{"q": f"{number}+1=", "a": str(number + 1)} for number in range(20)]
    write_task(tmp_path / "tasks", "corpus", rows, metric_list=[metric])
    file = tmp_path / "tasks" / "corpus.yaml"
    file.write_text(file.read_text().replace('"AGGREGATION"', "!function corpus.by_document"))
    (tmp_path / "tasks" / "corpus.py").write_text(CORPUS)
    few = {split: {"documents": 4} for split in ("search", "validation", "test")}
    search = write_search(
        tmp_path,
        objectives=[{"task": "corpus", "metric": "exact_match"}],
        evaluation={"include": ["tasks"], **few},
    )
    trusted = ("--config", search, "--trust-code")
    said = evomerge("evaluate", "zoo:language", *trusted, code=1).stderr.splitlines()[-1]
    assert said.startswith("evomerge: The model could not be scored on the test documents (KeyErr")
    assert "; see whether the task can be used with them" in said
