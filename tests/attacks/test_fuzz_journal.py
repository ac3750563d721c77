"""What is made of a valid journal, and of times that no run has; `test_fuzz.py` changes them."""

import json

import pytest
from attacks.targets.runs import EVENTS, TIMINGS, chained

from evomerge.run.folder import CONFIG, JOURNAL, RunFolder
from evomerge.run.history import History
from evomerge.run.journal import read

pytestmark = pytest.mark.thorough


def test_a_preparation_of_strange_values_is_not_shown(folder):
    line = TIMINGS[-1]
    for strange in (
        {"method": "\ud800\n" * 2000},
        {"total": 10**4000},
        {"done": -5},
        {"done": None},
    ):
        (folder / "timings.jsonl").write_text(json.dumps(line | strange) + "\n")
        said = RunFolder(folder).timings.preparation() or ""
        assert said.isprintable() and len(said) < 1000


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    (path / CONFIG).write_text("{}")
    (path / JOURNAL).touch()
    return path


def test_the_journal_that_is_mutated_is_valid(folder):
    (folder / JOURNAL).write_bytes(chained(json.dumps(EVENTS).encode()))
    history = History(read(folder / JOURNAL))
    assert [item.status for item in history.candidates] == ["scored", "failed", "scored"]
