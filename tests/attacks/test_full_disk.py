"""A disk that is full stops a search with one sentence, whichever file it was; `resume` goes on."""

import errno
import os
import resource
import shutil
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import yaml
from search_run import SMALL

from evomerge.__main__ import run as call
from evomerge.config.schema import parse
from evomerge.errors import DiskError, InputError, SearchError
from evomerge.problem.problem import record_of
from evomerge.problem.runs import prepare, problem_of
from evomerge.run import journal
from evomerge.run.folder import RunFolder
from evomerge.searching import run as searches
from evomerge.searching.run import run_search

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full"),
]

FULL = "/dev/full"  # whatever is written to it fails, since there is no room


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """A run with 3 candidates, and the same run continued to 5."""
    folder = tmp_path_factory.mktemp("full")
    problem = prepare(parse({**SMALL, "budget": {"candidates": 3}}, "search.yaml"), folder)
    run = RunFolder.create(folder / "begun", "{}", record_of(problem).to_json())
    run_search(problem, run, {})
    shutil.copytree(run.path, folder / "whole")
    go_on(RunFolder(folder / "whole"))
    return run.path, folder / "whole"


def go_on(run, *followers):
    return run_search(problem_of(run), run, {"candidates": 5}, followers)


def fails(history, event):
    raise ValueError("a follower that fails is in the log")


def test_a_search_stops_with_a_sentence_and_goes_on(begun, tmp_path, monkeypatch):
    """Permissions are not changed here, since nothing is read-only for root."""
    before, whole = begun
    run = RunFolder(shutil.copytree(before, tmp_path / "run"))

    def refused(*followers, number=errno.ENOSPC):
        with pytest.raises(SearchError) as caught:
            go_on(run, *followers)
        assert os.strerror(number) in str(caught.value) and caught.value.exit_code == 1
        assert f"then go on with `evomerge resume {run.path}`" in str(caught.value)

    for name in ("timings.jsonl", "best.yaml", "log.txt", "lock"):
        kept = (run.path / name).rename(tmp_path / name) if (run.path / name).exists() else None
        (run.path / name).symlink_to(FULL)
        refused(fails)
        (run.path / name).unlink()
        if kept:
            kept.rename(run.path / name)
    for owner, number in (
        (journal.os, errno.ENOSPC),
        (searches.RunFolder, errno.ENOSPC),
        (searches.RunFolder, errno.EROFS),
    ):

        def fail(*_, number=number):
            raise OSError(number, os.strerror(number))

        with monkeypatch.context() as patch:
            patch.setattr(owner, "write", fail)
            refused(number=number)
    go_on(run)
    for name in ("journal.jsonl", "best.yaml"):
        assert (run.path / name).read_bytes() == (whole / name).read_bytes()


@contextmanager
def files_of_at_most(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


COMMANDS = {
    "export": ["export", "RUN", "--out", "model"],
    "merge": ["merge", "RUN/best.yaml", "--out", "model"],
    "report": ["report", "RUN"],
    "results": ["results", "RUN", "--csv", "rows.csv"],
    "init": ["init", "new.yaml"],
    "search": ["search", "search.yaml", "--run", "new"],
}


@pytest.mark.parametrize("case", COMMANDS)
def test_other_commands_say_it_in_a_sentence_and_leave_nothing(begun, tmp_path, monkeypatch, case):
    few = {**SMALL, "evaluation": {**SMALL["evaluation"], "search": {"documents": 4}}}
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(few))
    run = shutil.copytree(begun[1], tmp_path / "RUN")
    (run / "report.html").write_text("the page of yesterday")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    monkeypatch.chdir(tmp_path)
    with files_of_at_most(50), pytest.raises(DiskError) as caught:
        call(COMMANDS[case])
    assert "File too large" in str(caught.value) and "; free space on the disk" in str(caught.value)
    assert caught.value.exit_code == 1
    assert {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()} == before


def test_a_full_disk_behind_the_output_is_a_sentence(begun, monkeypatch):
    full = Path(FULL).open("w")  # noqa: SIM115 - to close it fails too
    with monkeypatch.context() as patch, pytest.raises(DiskError, match="No space left on device"):
        patch.setattr(sys, "stdout", full)
        call(["schema"])
    with suppress(OSError):
        full.close()
    with pytest.raises(DiskError, match="No space left on device"):
        call(["report", str(begun[1]), "--out", FULL])


@pytest.mark.parametrize("name", ["timings.jsonl", "best.yaml"])
def test_a_folder_in_the_place_of_a_file_that_is_needed_is_named(begun, tmp_path, name):
    run = RunFolder(shutil.copytree(begun[0], tmp_path / "run"))
    (run.path / name).unlink()
    (run.path / name).mkdir()
    told = rf"Is a directory: .*run/{name}'?\); .*move away what is there, then go on with"
    with pytest.raises(SearchError, match=told):
        go_on(run)
    (run.path / "report.html").mkdir()
    with pytest.raises(InputError, match="Is a directory; give another file"):
        call(["report", str(run.path)])
