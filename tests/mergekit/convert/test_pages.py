"""The page for people who move in from mergenetic: a CSV file becomes a task of lm-eval."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from lm_eval.filters.extraction import RegexFilter
from page_commands import evomerge
from pages import PAGES, blocks_of

PAGE = PAGES["docs/from-mergenetic.md"]


def test_a_csv_file_is_scored_by_the_task_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (task,) = (block.text for block in blocks_of(PAGE) if block.file == "tasks/gsm8k_ro.yaml")
    for folder in ("tasks", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "tasks" / "gsm8k_ro.yaml").write_text(task)
    with (tmp_path / "data" / "gsm8k_ro.csv").open("w") as file:
        rows = [(f"What is {i} + 1?", i + 1) for i in range(12)]
        csv.writer(file).writerows([("prompt", "answer"), *rows])
    config = {
        "pop_size": 2,
        "n_iter": 2,
        "base_model": "zoo:language",
        "models": ["zoo:maths"],
        "datasets": {"ro": "data/gsm8k_ro.csv"},
        "n_samples": 4,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    Path("search.yaml").write_text(evomerge(["convert", "config.yaml"]))
    settings = ["evaluation.include=[./tasks]", "evaluation.validation.documents=4"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert "gsm8k_ro/exact_match" in evomerge(["validate", "search.yaml", *options])
    regex = yaml.safe_load(task)["filter_list"][0]["filter"][0]
    last = RegexFilter(regex["regex_pattern"], regex["group_select"])
    assert list(last.apply([["5 + 2.5 makes 7.5."], ["-3"]], [{}, {}])) == [["7.5"], ["-3"]]
