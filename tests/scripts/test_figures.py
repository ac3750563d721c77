"""The record of the commands behind the figures fits the pages, and says which are old."""

import subprocess

import pytest
import yaml
from pages import PAGES

from scripts.figures import ROOT, old, one_line, rows, unrecorded

RECORD = rows()


@pytest.mark.parametrize("row", RECORD, ids=lambda row: f"{row['page']}: {row['command'][:60]}")
def test_a_recorded_command_is_on_its_page_and_what_it_uses_exists(row):
    assert sorted(row) == ["command", "commit", "page", "uses"]
    assert row["command"] in one_line(PAGES[row["page"]])
    assert [name for name in row["uses"] if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CONTRIBUTING.md"])
def test_every_program_that_a_page_measures_with_is_recorded(page):
    assert unrecorded(page, PAGES[page], RECORD) == []


def test_a_program_without_a_row_is_named():
    text = "Measured by `python benchmarks/lag.py\n--seeds 8`."
    assert unrecorded("docs/a.md", text, RECORD) == ["python benchmarks/lag.py"]
    assert unrecorded("docs/scaling.md", text, RECORD) == []


def test_a_figure_is_old_once_what_it_uses_was_changed(tmp_path):
    def git(*words):
        identity = ("-c", "user.name=a", "-c", "user.email=a@b")
        command = ["git", *identity, *words]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True)

    def commit(file, subject):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text(subject)
        git("add", ".")
        git("commit", "-q", "-m", subject)
        return git("rev-parse", "HEAD").stdout.strip()

    git("init", "-q")
    first = commit("code/a.py", "Begin")
    row = {"page": "docs/a.md", "command": "run a", "commit": first, "uses": ["code"]}
    record = yaml.safe_load(yaml.safe_dump([row, {**row, "commit": None}]))
    commit("other/b.py", "Change what it does not use")
    assert list(old(record, tmp_path)) == ["docs/a.md: run a: never run"]
    commit("code/a.py", "Change what it uses")
    (line, _) = old(record, tmp_path)
    assert line.startswith(f"docs/a.md: run a: 1 commits since {first}, the last ")
    assert line.endswith(" Change what it uses")
