"""The showcase's questions and lm-eval tasks: right answers, and pools that share no numbers."""

import calendar
import json
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from evomerge.cli.commands import app
from evomerge.config.schema import parse, read
from scripts.real.places import RUNS
from scripts.real.questions import Question, draw
from scripts.real.searches import COMPOSITIONS, command
from scripts.real.tasks import TASKS

_SPANISH_WEEK = ["lunes", "martes", "miércoles", "jueves", "viernes", "sábado", "domingo", "lunes"]
_CAPITALS = {
    "France": "Paris", "Spain": "Madrid", "Italy": "Rome", "Germany": "Berlin", "Japan": "Tokyo",
    "Russia": "Moscow", "Francia": "París", "España": "Madrid", "Italia": "Roma",
    "Alemania": "Berlín", "Japón": "Tokio", "Rusia": "Moscú",
}  # fmt: skip


def numbers(question: Question) -> tuple[int, ...]:
    """Return the numbers in a prompt, in order."""
    return tuple(map(int, re.findall(r"\d+", question.prompt)))


def right_answer(prompt: str) -> str:
    """Return the right answer to a prompt."""
    text, request = prompt.split("\n")
    spanish = text.startswith("¿")
    digits = re.findall(r"\d+", text)
    if "+" in text:
        answer = str(sum(map(int, digits)))
    elif "backwards" in text:
        answer = "".join(reversed(digits[0]))
    elif digits:
        answer = str(int(digits[0]) + 1)
    else:
        word = re.findall(r"\w+", text)[-1]
        week = _SPANISH_WEEK if spanish else [*calendar.day_name, "Monday"]
        answer = week[week.index(word) + 1] if word in week else _CAPITALS[word]
    sentence = f"La respuesta es {answer}." if spanish else f"The answer is {answer}."
    return json.dumps({"answer": sentence}, ensure_ascii=False) if request == "JSON:" else sentence


ROOT = Path(__file__).resolve().parents[2]
SPLITS = {"training": 400, "validation": 400, "test": 600}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder that has all tasks, which a new process has written."""
    place = tmp_path_factory.mktemp("showcase")
    words = [sys.executable, "-m", "scripts.real.tasks"]
    subprocess.run(words, cwd=place, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True)
    return place / "runs" / "showcase"


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


def test_splits_are_disjoint_answers_right_and_no_numbers_in_two_pools(folder):
    seen: dict[str, set[tuple[int, ...]]] = {"tasks": set(), "development": set()}
    for task, pool in product(TASKS, seen):
        found = documents(folder, pool, task)
        prompts = {split: {row.prompt for row in rows} for split, rows in found.items()}
        assert {split: len(rows) for split, rows in found.items()} == SPLITS
        assert {split: len(item) for split, item in prompts.items()} == SPLITS
        assert len(set().union(*prompts.values())) == sum(SPLITS.values())
        rows = [row for split in found.values() for row in split]
        assert [row.answer for row in rows] == [right_answer(row.prompt) for row in rows]
        assert not any("\n" in row.answer for row in rows)  # generation ends at a line break
        seen[pool] |= {numbers(row) for row in rows}
    drawn = [row for task in TASKS for row in draw(TASKS[task], "experts", 1000, "seed")]
    assert [row.answer for row in drawn] == [right_answer(row.prompt) for row in drawn]
    experts = {numbers(row) for row in drawn}
    assert not seen["tasks"] & seen["development"]
    assert not experts & (seen["tasks"] | seen["development"])


def test_the_searches_of_the_showcase_are_of_valid_search_files(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    options = get_command(app).commands["search"]
    for name, ways in COMPOSITIONS.items():
        for way in ways:
            given = options.make_context("search", command(name, way, 2)[2:]).params
            content = read(given["file"], given["set_"])
            assert content["seed"] == 2 and given["resume"]
            if "stages" not in content:
                parse(content, name)
    assert given["run"] == RUNS / "vision-random-search-2"
    assert content["optimizer"]["name"] == "random"
