"""A disk that is full stops a search with one sentence, whichever file it was; `resume` goes on."""

import errno
import os
import shutil
import sys

import pytest
from search_run import SMALL

from evomerge.__main__ import run as call
from evomerge.config.schema import parse
from evomerge.errors import EvomergeError, SearchError
from evomerge.export.candidate import export_candidate
from evomerge.run import journal
from evomerge.run.folder import RunFolder
from evomerge.setup import search as searches
from evomerge.setup.check import freeze
from evomerge.setup.runs import prepare, reopen
from evomerge.setup.search import run_search

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")

FULL = "/dev/full"
"""Whatever is written to it fails, since there is no room."""


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with 3 candidates, and the same run continued to 5."""
    folder = tmp_path_factory.mktemp("full")
    problem = prepare(parse({**SMALL, "budget": {"candidates": 3}}, "search.yaml"), folder)
    run = RunFolder.create(folder / "begun", freeze(problem))
    run_search(problem, run, {})
    shutil.copytree(run.path, folder / "whole")
    go_on(RunFolder(folder / "whole"))
    return run.path, folder / "whole"


def go_on(run, *followers):
    return run_search(reopen(run), run, {"candidates": 5}, followers)


def fails(history, event):
    raise ValueError("a follower that fails is in the log")


def no_room(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_search_stops_with_a_sentence_and_goes_on(begun, tmp_path, monkeypatch):
    before, whole = begun
    run = RunFolder(shutil.copytree(before, tmp_path / "run"))

    def refused(*followers):
        with pytest.raises(SearchError) as caught:
            go_on(run, *followers)
        said = str(caught.value)
        assert "No space left on device" in said
        assert (
            f"; free space on the disk or repair it, then go on with `evomerge resume {run.path}`"
            in said
        )
        assert caught.value.exit_code == 1

    for name in ("timings.jsonl", "best.yaml", "log.txt", "lock"):
        kept = (run.path / name).rename(tmp_path / name) if (run.path / name).exists() else None
        (run.path / name).symlink_to(FULL)
        refused(fails)
        (run.path / name).unlink()
        if kept:
            kept.rename(run.path / name)
    with monkeypatch.context() as patch:
        patch.setattr(journal.os, "write", no_room)
        refused()
    with monkeypatch.context() as patch:
        patch.setattr(searches.RunFolder, "write", no_room)
        refused()
    go_on(run)
    for name in ("journal.jsonl", "best.yaml"):
        assert (run.path / name).read_bytes() == (whole / name).read_bytes()


def test_other_commands_say_it_in_a_sentence_too(begun, tmp_path, monkeypatch):
    _, whole = begun
    with pytest.raises(EvomergeError, match="No space left on device"):
        call(["report", str(whole), "--out", FULL])
    with pytest.raises(EvomergeError, match="No space left on device"):
        call(["results", str(whole), "--csv", FULL])
    monkeypatch.setattr("evomerge.run.atomic._sync_tree", no_room)
    with pytest.raises(EvomergeError, match="No space left on device"):
        export_candidate(RunFolder(whole), tmp_path / "model", "best", None, "5GB")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(EvomergeError, match="No space left on device"):
        RunFolder.create(tmp_path / "run", {})
    assert list(tmp_path.iterdir()) == []


def test_times_that_cannot_be_written_stop_nothing(begun, tmp_path):
    """A folder in the place of the file, as after a mistake with rsync."""
    before, whole = begun
    run = RunFolder(shutil.copytree(before, tmp_path / "run"))
    (run.path / "timings.jsonl").unlink()
    (run.path / "timings.jsonl").mkdir()
    go_on(run)
    assert run.journal_path.read_bytes() == (whole / "journal.jsonl").read_bytes()
    assert "timings.jsonl cannot be written: Is a directory" in (run.path / "log.txt").read_text()
    assert call(["status", str(run.path)]) == 0
    assert call(["results", str(run.path), "--seconds"]) == 0
