"""The examples of the pages for people who move in from other tools."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest
import yaml
from lm_eval.filters.extraction import RegexFilter
from search_run import evomerge
from tiny import load

DOCS = Path(__file__).parents[3] / "docs"


def example(page: str, heading: str = "Example") -> list[str]:
    """Return the fenced blocks of a section of a page."""
    text = (DOCS / page).read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"```\w*\n(.*?)```", text, re.DOTALL)


@pytest.mark.parametrize("tool", ["mergekit-evolve", "mergenetic"])
def test_a_config_becomes_the_search_file_of_the_page(tmp_path: Path, tool: str) -> None:
    config, commands, search = example(f"from-{tool}.md")
    convert, validate = (line.split()[1:] for line in commands.splitlines())
    (tmp_path / convert[1]).write_text(config)
    (tmp_path / "search.yaml").write_text(evomerge(*convert[:2], cwd=tmp_path).stdout)
    assert (tmp_path / "search.yaml").read_text() == search
    evomerge(*validate, cwd=tmp_path)


def test_a_mergekit_file_is_merged_and_searched(tmp_path: Path) -> None:
    merge, commands, search = example("from-mergekit.md")
    (tmp_path / "merge.yaml").write_text(merge)
    (tmp_path / "search.yaml").write_text(search)
    for line in commands.splitlines():
        evomerge(*line.split()[1:], cwd=tmp_path)
    assert load(tmp_path / "merged").config.num_hidden_layers == 6


def test_a_csv_file_is_scored_by_the_task_of_the_page(tmp_path: Path) -> None:
    task = example("from-mergenetic.md", "CSV files")[0]
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
    search = tmp_path / "search.yaml"
    search.write_text(evomerge("convert", "config.yaml", cwd=tmp_path).stdout)
    settings = ["evaluation.include=[./tasks]", "evaluation.validation.documents=4"]
    options = [word for setting in settings for word in ("--set", setting)]
    assert "gsm8k_ro/exact_match" in evomerge("validate", search, *options, cwd=tmp_path).stdout
    regex = yaml.safe_load(task)["filter_list"][0]["filter"][0]
    last = RegexFilter(regex["regex_pattern"], regex["group_select"])
    assert list(last.apply([["5 + 2.5 makes 7.5."], ["-3"]], [{}, {}])) == [["7.5"], ["-3"]]
