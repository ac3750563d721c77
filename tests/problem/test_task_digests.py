"""A task that has changed since a run began is noticed before anything is scored."""

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from search_run import SMALL

from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.info import TaskInfo, TasksInfo
from evomerge.problem.problem import record_of
from evomerge.problem.runs import prepare, problem_of
from evomerge.problem.tasks import task_facts
from evomerge.run.folder import RunFolder

METRIC = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}
TASK = {
    "task": "sums",
    "dataset_path": "json",
    "test_split": "test",
    "fewshot_split": "train",
    "num_fewshot": 1,
    "output_type": "generate_until",
    "doc_to_text": "{{ question }}",
    "doc_to_target": "{{ answer }}",
    "generation_kwargs": {"until": ["<eos>"], "do_sample": False, "max_gen_toks": 3},
    "metric_list": [METRIC],
}


def write(folder, documents=None, shots=None, **changes):
    """Write the task and its documents."""
    files = {}
    for split, given in (("test", documents), ("train", shots)):
        rows = given or [{"question": f"{split} {i} + 1", "answer": str(i + 1)} for i in range(40)]
        files[split] = str(folder / f"{split}.json")
        (folder / f"{split}.json").write_text("\n".join(map(json.dumps, rows)))
    task = TASK | {"dataset_kwargs": {"data_files": files}} | changes
    (folder / "sums.yaml").write_text(yaml.safe_dump(task))


def begun(folder):
    """Return a run with the task, of which nothing is searched yet."""
    sizes = {"search": 6, "validation": 4, "test": 8}
    evaluation = {split: {"documents": size} for split, size in sizes.items()}
    evaluation["include"] = [str(folder)]
    changes = {"objectives": [{"task": "sums", "metric": "exact_match"}], "evaluation": evaluation}
    problem = prepare(parse(SMALL | {**changes, "budget": {"candidates": 9}}, "x"), folder)
    return RunFolder.create(folder / "run", "{}", record_of(problem).to_json())


def rows(split, change):
    """Return the documents of a split, each changed."""
    plain = [{"question": f"{split} {i} + 1", "answer": str(i + 1)} for i in range(40)]
    return [{**row, **change(row)} for row in plain]


CHANGES = {
    "documents": {"documents": rows("test", lambda row: {"answer": row["answer"] + "0"})},
    "prompts": {"doc_to_text": "{{ question }} ="},
    "few-shot examples": {"shots": rows("train", lambda row: {"answer": "9"})},
    "generation": {"generation_kwargs": TASK["generation_kwargs"] | {"max_gen_toks": 1}},
    "metrics": {"metric_list": [METRIC | {"ignore_case": True}]},
    # Another prompt of documents that were not used yet.
    "other prompts": {"doc_to_text": "{% if question == 'another' %}?{% endif %}{{ question }}"},
    "other examples": {"fewshot_config": {"doc_to_text": "{{ '' }}{{ question }}"}},
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    write(folder)
    return begun(folder)


def test_an_unchanged_task_is_accepted_with_and_without_digests(run):
    folder = run.path.parent
    write(folder)
    record = run.record()
    assert set(record.tasks) == {"search", "validation", "test"}
    assert len(record.tasks["test"]["sums"]) == 16
    problem = problem_of(run)
    assert problem.evaluator.info.tasks
    write(folder, doc_to_text="{{ question }} =")
    old = record.model_copy(update={"tasks": {}})
    assert replace(problem, record=old).evaluator


@pytest.mark.parametrize("what", CHANGES)
def test_a_changed_task_is_refused(run, what):
    write(run.path.parent, **CHANGES[what])
    problem = problem_of(run)  # as for `results` and `export`, which load no task
    with pytest.raises(ConfigError, match=r"'sums' has changed .* its search documents, their"):
        assert problem.evaluator


def test_each_document_that_the_run_uses_counts_and_no_other(run):
    number = run.record().documents["test"]["sums"][-1]
    documents = rows("test", lambda row: {})
    write(run.path.parent, documents=[*documents, {"question": "1 + 1", "answer": "3"}])
    assert problem_of(run).evaluator
    documents[number]["answer"] = "0"
    write(run.path.parent, documents=documents)
    with pytest.raises(ConfigError, match="its test documents, their"):
        assert problem_of(run).evaluator


def test_data_sets_of_the_hub_are_named(tmp_path, monkeypatch):
    """Local files are none, also where their name could be one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "sums.py").write_text("")
    for dataset in ("org/sums", "json", "/home/me/sums", "./sums", "org/sums.py"):
        splits = {"training": "train"}
        task = TaskInfo("t", "generate_until", 9, {}, dataset, splits, "training", "ja")
        tasks = SimpleNamespace(info=TasksInfo({"zoo_l2_maths": task}, {}))
        evaluator = SimpleNamespace(tasks_of=lambda split, tasks=tasks: tasks)
        found = task_facts(parse(SMALL, "search.yaml"), evaluator)["datasets"]["search"]
        named = {"zoo_l2_maths": {"id": dataset, "config": "ja", "split": "train"}}
        assert found == (named if dataset == "org/sums" else {})
