"""A run has one writer at a time; readers that check the lock never keep a writer out."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from evomerge.errors import RunFolderError
from evomerge.run import journal as journals
from evomerge.run.folder import RunFolder

LOOK = """
import sys
from pathlib import Path
from evomerge.run.folder import RunFolder
run = RunFolder(Path(sys.argv[1]))
print(run.is_running, flush=True)
while True:
    run.is_running
"""

HOLD_WITH_CHILD = """
import os, sys, time
from pathlib import Path
from evomerge.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).writing():
    child = os.fork()
    if child:
        print(child, flush=True)
    time.sleep(100)
"""


def start(code, run):
    return subprocess.Popen(
        [sys.executable, "-c", code, str(run.path)], stdout=subprocess.PIPE, text=True
    )


def test_readers_that_check_the_lock_keep_no_writer_out(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {})
    with run.writing():
        readers = [start(LOOK, run) for _ in range(4)]
        try:
            for reader in readers:
                assert reader.stdout is not None
                assert reader.stdout.readline() == "True\n"
        except BaseException:
            for reader in readers:
                reader.kill()
            raise
    try:
        for _ in range(200):
            with run.writing():
                pass
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()


def test_a_forked_child_does_not_keep_the_lock(tmp_path):
    """A killed search can be resumed while a process that it forked still runs."""
    run = RunFolder.create(tmp_path / "run", "{}", {})
    holder = start(HOLD_WITH_CHILD, run)
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        assert run.is_running
        holder.kill()
        holder.wait()
        for _ in range(25_000):  # the child may not have closed its copy yet
            if not run.is_running:
                break
            time.sleep(0.01)
        assert not run.is_running
        with run.writing():
            os.kill(child, 0)
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


def test_a_writer_that_reads_its_lock_file_keeps_the_lock(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {})
    with run.writing():
        assert run.is_running
        (run.path / "lock").read_text()
        with pytest.raises(RunFolderError, match=f"process {os.getpid()}"), run.writing():
            pass
        assert run.is_running
    assert not run.is_running


def test_without_the_lock_file_there_is_one_writer(tmp_path, monkeypatch):
    monkeypatch.setattr(journals, "_TRIES", 1)
    run = RunFolder.create(tmp_path / "run", "{}", {})
    with run.writing() as journal:
        (run.path / "lock").unlink()
        assert run.is_running
        with pytest.raises(RunFolderError, match="another process"), run.writing():
            pass
        journal.append({"event": "x"})
    assert len(run.events()) == 2


def test_a_forked_child_cannot_write_to_the_journal(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {})
    with run.writing() as journal:
        before = run.journal_path.read_bytes()
        child = os.fork()
        if child == 0:
            with suppress(AssertionError):
                journal.append({"event": "of the child"})
            os._exit(0)
        os.waitpid(child, 0)
        assert run.journal_path.read_bytes() == before
        assert run.is_running
        journal.append({"event": "x"})
    assert [event["event"] for event in run.events()] == ["header", "x"]
