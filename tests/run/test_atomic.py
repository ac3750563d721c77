"""A file or folder appears complete or not at all; what a killed writer leaves is removed."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.errors import RunFolderError
from evomerge.run.atomic import (
    atomic_folder,
    create_folder,
    remove_abandoned,
    replace_text,
    why_not_writable,
)
from evomerge.run.folder import RunFolder

STOPPED = """
import os, sys, time
from pathlib import Path
from evomerge.run.atomic import create_folder, replace_text
from evomerge.run.folder import RunFolder

def stop(*arguments):
    print("written", flush=True)
    time.sleep(100)

Path.replace = Path.rename = stop
{}
"""
"""A program that stops after writing, before the rename."""

WRITERS = {
    "file": 'replace_text(Path(sys.argv[1]) / "name", "new" * 9999)',
    "folder": 'create_folder(Path(sys.argv[1]) / "name", {"a": "1", "b": "2"})',
    "run": 'RunFolder.create(Path(sys.argv[1]) / "name", "{}", {"seed": 1})',
}


def stopped(code, folder):
    process = subprocess.Popen(
        [sys.executable, "-c", STOPPED.format(code), str(folder)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "written\n"
    return process


def kill(process):
    process.send_signal(signal.SIGKILL)
    process.communicate()


def names(folder):
    return sorted(item.name for item in folder.iterdir())


@pytest.mark.parametrize("kind", WRITERS)
def test_the_next_writer_removes_what_a_killed_one_has_left(tmp_path, kind):
    process = stopped(WRITERS[kind], tmp_path)
    assert len(names(tmp_path)) == 1
    assert not (tmp_path / "name").exists()
    if kind == "file":
        replace_text(tmp_path / "other", "x")
        replace_text(tmp_path / "name", "second")
    else:
        create_folder(tmp_path / "other", {"a": "x"})
        create_folder(tmp_path / "name", {"a": "second"})
    assert len(names(tmp_path)) == 3, "the file of a running writer was removed"
    kill(process)
    (tmp_path / "name").rename(tmp_path / "moved")
    if kind == "file":
        replace_text(tmp_path / "name", "third")
    elif kind == "run":
        RunFolder.create(tmp_path / "name", "{}", {"seed": 2})
    else:
        create_folder(tmp_path / "name", {"a": "third"})
    assert names(tmp_path) == ["moved", "name", "other"]


def test_opening_a_run_for_writing_removes_what_killed_writers_left(tmp_path):
    """An unfinished `best.yaml` is removed even if `best.yaml` is not written again."""
    run = RunFolder.create(tmp_path / "run", "{}", {})
    run.write("best.yaml", "old")
    process = stopped('RunFolder(Path(sys.argv[1])).write("best.yaml", "new")', run.path)
    with run.writing():
        assert any(name.startswith(".best.yaml.") for name in names(run.path))
    kill(process)
    with run.writing():
        assert names(run.path) == [
            "best.yaml",
            "journal.jsonl",
            "lock",
            "manifest.json",
            "search.yaml",
        ]
    assert (run.path / "best.yaml").read_text() == "old"


def test_what_killed_writers_left_in_the_folders_of_a_run_is_removed_too(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {})
    for name in ("front/.3.yaml.partial-0", "models/.a.partial-0/x"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    (run.path / ".workers.json.partial-12345").touch()
    with run.writing():
        left = {path.name for path in run.path.rglob("*") if not path.is_dir()}
        assert left == {"journal.jsonl", "lock", "manifest.json", "search.yaml"}
        assert names(run.path / "models") == []


@pytest.mark.parametrize("there", [True, False])
def test_a_run_can_be_created_where_a_link_points_to(tmp_path, there):
    if there:
        (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    run = RunFolder.create(tmp_path / "link", "seed: 5", {})
    with run.writing() as journal:
        journal.append({"event": "x"})
    assert (tmp_path / "link").is_symlink()
    assert RunFolder(tmp_path / "real").written() == {"seed": 5}
    assert len(RunFolder(tmp_path / "link").events()) == 2
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "link", "{}", {})


def test_unfinished_files_with_special_characters_are_found(tmp_path):
    process = stopped('replace_text(Path(sys.argv[1]) / "a[1]*", "new")', tmp_path)
    kill(process)
    replace_text(tmp_path / "a[1]*", "second")
    assert names(tmp_path) == ["a[1]*"]


def test_a_folder_can_be_written_also_if_another_writer_removes_what_tries_it(
    tmp_path, monkeypatch
):
    make = Path.mkdir

    def make_and_lose(self):
        make(self)
        remove_abandoned(self.parent)
        assert not self.exists()

    monkeypatch.setattr(Path, "mkdir", make_and_lose)
    assert why_not_writable(tmp_path / "run") is None


def test_a_failed_write_leaves_nothing(tmp_path):
    (tmp_path / "name").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_text(tmp_path / "name", "text")
    with pytest.raises(UnicodeEncodeError):
        create_folder(tmp_path / "run", {"a": "fine", "b": "\ud800"})
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("")
        raise ZeroDivisionError
    assert names(tmp_path) == ["name"]


def test_links_and_pipes_are_kept(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    replace_text(tmp_path / "pipe", "said")
    assert reader.communicate()[0] == "said"
    assert (tmp_path / "pipe").is_fifo()


def test_new_files_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        replace_text(tmp_path / "file", "x")
        create_folder(tmp_path / "folder", {"a": "x"})
    finally:
        os.umask(before)
    rights = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder")}
    assert rights == {"file": 0o640, "folder": 0o750}
