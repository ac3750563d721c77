"""A run folder is created in one step, has one writer at a time, and is never overwritten."""

import os
import signal
import subprocess
import sys
import time

import pytest

from evomerge.errors import RunFolderError
from evomerge.run import journal as journals
from evomerge.run.folder import RunFolder

BEGIN = """
import logging, os, sys, time
from pathlib import Path
from evomerge.run.folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
"""
LOOK = "print(run.is_running, flush=True)\nwhile True: run.is_running\n"
HOLD_WITH_CHILD = """
with run.writing():
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(100)
"""
LOG = """
with run.logged():
    logging.getLogger("evomerge.searching").warning("a worker is late")
    logging.getLogger("evomerge.searching").info("a detail")
"""


def start(code, run):
    words, pipe = [sys.executable, "-c", BEGIN + code, str(run.path)], subprocess.PIPE
    return subprocess.Popen(words, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path / "run", "{}", {})


def test_what_is_there_is_left_alone_and_what_is_not_a_run_is_not_opened(run, tmp_path):
    with pytest.raises(RunFolderError, match="go on with it by --resume"):
        RunFolder.create(run.path, "{}", {})
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="is no run folder"):
        RunFolder.create(tmp_path / "work", "{}", {})
    assert [item.name for item in (tmp_path / "work").iterdir()] == ["thesis.tex"]
    with pytest.raises(RunFolderError, match="is not a run folder: it has no search"):
        RunFolder(tmp_path / "work")


def test_a_file_that_was_changed_by_hand_is_refused(tmp_path):
    text = "seed: 1\ntol: 1e-05\nexecutor: {workers: 1}\n"
    run = RunFolder.create(tmp_path / "run", text, {"config": {"seed": 1}, "genes": ["a"]})
    written, known = run.written(), run.manifest()
    assert known == {"config": {"seed": 1}, "genes": ["a"]}

    def refusal(name: str, old: str, new: str) -> str | None:
        file = run.path / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        try:
            assert (run.written(), run.manifest()) == (written, known)
        except RunFolderError as error:
            return str(error)
        finally:
            file.write_text(text)
        return None

    assert refusal("search.yaml", "seed: 1", "seed:   1  # as it was") is None
    for name, old, new in (
        *(("search.yaml", "tol: 1e-05\n", ""), ("search.yaml", "workers: 1", "workers: 2")),
        *(("manifest.json", '"a"', '"b"'), ("manifest.json", '"digest": "', '"digest": "0')),
    ):
        assert "was changed after the run began" in str(refusal(name, old, new))
    assert "cannot be read as JSON" in str(refusal("manifest.json", '"a"', '"a'))
    (run.path / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no manifest\.json; put it back from a copy"):
        run.manifest()


def test_two_processes_that_create_the_same_run(tmp_path, monkeypatch):
    """Both have found the folder free; the later one gets an error and writes nothing."""
    check, problem = RunFolder.check_free, []

    def check_then_meet(path):
        check(path)
        problem.append(path)
        if len(problem) == 1:
            RunFolder.create(path, "seed: 1", {})

    monkeypatch.setattr(RunFolder, "check_free", staticmethod(check_then_meet))
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "run", "seed: 2", {})
    assert RunFolder(tmp_path / "run").written() == {"seed": 1}


def test_there_is_one_writer_also_without_the_lock_file(run, monkeypatch):
    monkeypatch.setattr(journals, "_TRIES", 1)
    with run.writing() as journal:
        assert run.is_running
        with pytest.raises(RunFolderError, match=f"process {os.getpid()}"), run.writing():
            pass
        (run.path / "lock").unlink()
        assert run.is_running
        with pytest.raises(RunFolderError, match="another process"), run.writing():
            pass
        journal.append({"event": "x"})
    assert not run.is_running and len(run.events()) == 2


def test_readers_that_check_the_lock_keep_no_writer_out(run):
    readers = []
    try:
        with run.writing():
            readers += [start(LOOK, run) for _ in range(4)]
            assert [reader.stdout.readline() for reader in readers] == ["True\n"] * 4
        for _ in range(200):
            with run.writing():
                pass
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def test_a_kill_releases_the_lock_which_a_forked_child_does_not_keep(run):
    """A killed search can be resumed while a process that it forked still runs."""
    holder = start(HOLD_WITH_CHILD, run)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert run.is_running
        with pytest.raises(RunFolderError, match=str(holder.pid)), run.writing():
            pass
        holder.kill()
        holder.wait()
        for _ in range(25_000):  # the child may not have closed its copy yet
            if not run.is_running:
                break
            time.sleep(0.01)
        with run.writing():
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.communicate()


def test_warnings_of_a_run_are_printed_and_logged(run):
    """In a process of its own, since pytest adds handlers of its own."""
    assert start(LOG, run).communicate()[1].splitlines() == ["a worker is late"]
    log = (run.path / "log.txt").read_text()
    assert "WARNING a worker is late" in log and "INFO a detail" in log
