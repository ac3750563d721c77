"""The lm-eval tasks of the showcase: their documents, by split and pool."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import combinations
from pathlib import Path

import pytest
import yaml
from showcase import numbers, right_answer

from scripts.real.questions import Question, draw
from scripts.real.tasks import TASKS

ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"training": 400, "validation": 400, "test": 600}


def write(folder: Path, hash_seed: str) -> Path:
    """Write all tasks in a new process; return the folder that has them."""
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "scripts.real.tasks"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": hash_seed},
        check=True,
    )
    return folder / "runs" / "showcase"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("showcase") / "one", "1")


def documents(folder: Path, pool: str, task: str) -> dict[str, list[Question]]:
    """Return the documents of a task, split by split, from the files that its YAML names."""
    config = yaml.safe_load((folder / pool / f"{task}.yaml").read_text("utf-8"))
    files = config["dataset_kwargs"]["data_files"]
    found = {}
    for split in ("training", "validation", "test"):
        lines = Path(files[config[f"{split}_split"]]).read_text("utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        found[split] = [
            Question(row[config["doc_to_text"]], row[config["doc_to_target"]]) for row in rows
        ]
    return found


@pytest.mark.parametrize("pool", ["tasks", "development"])
@pytest.mark.parametrize("task", TASKS)
def test_splits_are_disjoint_and_answers_right(folder, task, pool):
    found = documents(folder, pool, task)
    assert {split: len(rows) for split, rows in found.items()} == SPLITS
    prompts = {split: {row.prompt for row in rows} for split, rows in found.items()}
    assert {split: len(item) for split, item in prompts.items()} == SPLITS
    for one, other in combinations(SPLITS, 2):
        assert not prompts[one] & prompts[other]
    for rows in found.values():
        assert [row.answer for row in rows] == [right_answer(row.prompt) for row in rows]
        assert not any("\n" in row.answer for row in rows)  # generation ends at a line break


def test_no_document_has_the_numbers_of_a_training_or_development_question(folder):
    def of(pool: str) -> set[tuple[int, ...]]:
        rows = [documents(folder, pool, task).values() for task in TASKS]
        return {numbers(row) for splits in rows for split in splits for row in split}

    experts = {numbers(row) for task in TASKS for row in draw(TASKS[task], "experts", 1000, "seed")}
    results, development = of("tasks"), of("development")
    assert not results & development
    assert not results & experts
    assert not development & experts


def test_the_files_are_the_same_each_time(folder, tmp_path):
    again = write(tmp_path / "two", "2")
    names = sorted(item.relative_to(folder) for item in folder.rglob("*") if item.is_file())
    assert len(names) == 2 * len(TASKS) * 4
    for name in names:
        one, other = (folder / name).read_text("utf-8"), (again / name).read_text("utf-8")
        assert one.replace(str(folder), "") == other.replace(str(again), "")
