"""A journal that was emptied is not taken for that of a search which has not begun."""

import pytest
from run_folders import asked, scores, told, write_run

from evomerge.errors import RunFolderError
from evomerge.run.journal import truncate
from evomerge.run.lines import HEADER
from evomerge.run.timings import Timings

pytestmark = pytest.mark.thorough

SIGNS = {
    "best.yaml": lambda folder: (folder / "best.yaml").write_text("a: 1\n"),
    "front": lambda folder: (folder / "front").mkdir(),
}


@pytest.fixture
def run(tmp_path):
    run = write_run(tmp_path / "run", [asked(0, "a"), told(0, scores(3))])
    run.journal_path.write_bytes(b"")
    return run


@pytest.mark.parametrize("name", SIGNS)
def test_an_emptied_journal_is_refused_until_the_search_begins_anew(run, name):
    SIGNS[name](run.path)
    with pytest.raises(RunFolderError) as caught:
        run.events()
    told = f"line 1 is missing, but {name} shows that candidates were scored;"
    assert told in str(caught.value)
    assert "--truncate" in str(caught.value)
    with pytest.raises(RunFolderError, match="is missing, but"), run.writing():
        pass
    assert run.journal_path.read_bytes() == b""

    cut = truncate(run.journal_path)
    assert "the search begins anew" in cut
    kept = "best.yaml" if name == "best.yaml" else "journal.jsonl"
    assert (run.path / f"{kept}.damaged-1").read_text() == ("a: 1\n" if name == "best.yaml" else "")
    with run.writing() as journal:
        assert journal.events == [HEADER]
    assert truncate(run.journal_path) is None


def test_a_kill_before_the_first_line_needs_nothing(run):
    (run.path / "weights.json").write_text("{}")
    (run.path / "report.html").write_text("<html>")  # of `evomerge report` after the kill
    (run.path / "timings.jsonl").write_text('{"session": 0.0}\n')
    assert not Timings(run.path / "timings.jsonl").by_candidate()
    assert run.events() == []
    assert truncate(run.journal_path) is None
    with run.writing() as journal:
        assert journal.events == [HEADER]


def test_a_journal_of_which_no_line_is_left_can_be_continued(tmp_path):
    run = write_run(tmp_path / "run", [asked(0, "a"), told(0, scores(3))])
    SIGNS["best.yaml"](run.path)
    run.journal_path.write_bytes(run.journal_path.read_bytes().replace(b"\n", b"\r\n"))
    assert "cut before line 1: " in truncate(run.journal_path)
    with run.writing() as journal:
        assert journal.events == [HEADER]
