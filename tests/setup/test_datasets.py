"""A run's search file names the data sets of its documents, if they are on the Hub."""

from types import SimpleNamespace

import pytest
from search_run import SMALL, write_search

from evomerge.config.schema import Frozen, load, parse
from evomerge.evaluation.tasks.info import TaskInfo, TasksInfo
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare
from evomerge.setup.task_digests import datasets


def frozen(dataset, config="", task_split="test"):
    """The data sets that are frozen for a task with this data set."""
    task_splits = {"training": "train", "test": "held_out"}
    task = TaskInfo("t", "generate_until", 9, {}, dataset, task_splits, task_split, config)
    evaluator = SimpleNamespace(tasks_of=lambda split: SimpleNamespace(info=info))
    info = TasksInfo({"zoo_l2_maths": task}, {})
    return datasets(parse(SMALL, "search.yaml"), evaluator)


@pytest.mark.parametrize(("task_split", "split"), [("test", "held_out"), ("training", "train")])
def test_a_data_set_of_the_hub(task_split, split):
    named = {"id": "org/sums", "config": "ja", "split": split}
    every = frozen("org/sums", "ja", task_split)
    assert every == {name: {"zoo_l2_maths": named} for name in ("search", "validation", "test")}
    Frozen(datasets=every)


@pytest.mark.parametrize("dataset", ["", "json", "/home/me/sums", "./sums", "a/b/c", "org/sums.py"])
def test_local_files_are_no_data_set_of_the_hub(tmp_path, monkeypatch, dataset):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "sums.py").write_text("")
    assert not any(frozen(dataset).values())


def test_the_files_of_embedded_tasks_are_not_named(tmp_path):
    problem = prepare(load(write_search(tmp_path)), tmp_path)
    assert freeze(problem)["datasets"] == {"search": {}, "validation": {}, "test": {}}
