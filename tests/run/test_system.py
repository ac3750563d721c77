"""Locks that end with their process: on the file itself, and beside it as on Windows."""

import signal
import subprocess
import sys

import pytest

from evomerge import system
from evomerge.run import atomic
from evomerge.run.journal import Journal, is_held
from evomerge.run.journal import read as read_journal

HOLD = """
import sys, time
from pathlib import Path
from evomerge import system
system.LOCKS_BESIDE = sys.argv[2] == "beside"
system.lock(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture(params=["itself", "beside"])
def way(request, monkeypatch):
    monkeypatch.setattr(system, "LOCKS_BESIDE", request.param == "beside")
    return request.param


@pytest.fixture
def holder(way):
    """A function that has another process lock a path, and returns the process."""
    started = []

    def hold(path):
        process = subprocess.Popen(
            [sys.executable, "-c", HOLD, str(path), way], stdout=subprocess.PIPE, text=True
        )
        started.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield hold
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_lock_ends_when_its_process_is_killed(holder, tmp_path, kind):
    path = tmp_path / "thing"
    path.mkdir() if kind == "folder" else path.write_text("text")
    process = holder(path)
    with pytest.raises(BlockingIOError):
        system.lock(path)
    assert kind == "folder" or path.read_text() == "text"
    process.send_signal(signal.SIGKILL)
    process.wait()
    system.unlock(path, system.lock(path))
    with pytest.raises(FileNotFoundError):
        system.lock(tmp_path / "missing")


def test_a_journal_is_read_while_it_is_held_and_is_free_after_its_end(way, tmp_path):
    path = tmp_path / "journal.jsonl"
    path.touch()
    with Journal(path) as journal:
        journal.append({"event": "a"})
        assert is_held(path)
        assert [event["event"] for event in read_journal(path)] == ["header", "a"]
    assert not is_held(path)
    with Journal(path) as journal:
        assert len(journal.events) == 2


def test_what_a_running_writer_makes_stays_and_what_a_killed_one_left_goes(holder, tmp_path):
    running, killed = (tmp_path / f".out{atomic.MARK}{name}" for name in ("running", "killed"))
    for folder in (running, killed):
        folder.mkdir()
    holder(running)
    process = holder(killed)
    process.kill()
    process.wait()
    atomic.remove_abandoned(tmp_path)
    assert running.is_dir() and not killed.exists()


def test_folders_appear_and_are_replaced_without_locks_left(way, tmp_path):
    out, new = tmp_path / "out", tmp_path / "new"
    with atomic.atomic_folder(out) as folder:
        (folder / "a").write_text("1")
    new.mkdir()
    atomic.replace_folder(new, out)
    atomic.replace_text(tmp_path / "text", "2")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text"]
    assert [*out.iterdir()] == []
