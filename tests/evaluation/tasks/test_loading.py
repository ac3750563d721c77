"""The index of lm-eval's tasks is made once for all searches, and again if a file has changed."""

from pathlib import Path

from evomerge.evaluation.tasks.loading import task_manager

TASK = "task: {0}\ndataset_path: json\noutput_type: generate_until\n"


def test_tasks_are_indexed_again_only_if_a_file_has_changed(tmp_path: Path) -> None:
    (tmp_path / "one.yaml").write_text(TASK.format("own_one"))
    include = [str(tmp_path)]
    manager = task_manager(include, ["own_one"], "objectives")
    assert task_manager(include, ["own_one"], "objectives") is manager
    (tmp_path / "two.yaml").write_text(TASK.format("own_two"))
    assert "own_two" in task_manager(include, ["own_two"], "objectives").all_tasks
