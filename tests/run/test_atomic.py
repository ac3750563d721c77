"""A file or folder appears complete or not at all; what a killed writer leaves is removed."""

import os
import subprocess
import sys

import pytest

from evomerge.errors import RunFolderError
from evomerge.run.atomic import (
    TemporaryFolder,
    atomic_folder,
    create_folder,
    end_replacement,
    replace_text,
)  # fmt: skip
from evomerge.run.folder import RunFolder

STOPPED = """
import os, sys, time
from pathlib import Path
from evomerge.run.atomic import TemporaryFolder, create_folder, replace_text
from evomerge.run.folder import RunFolder

def stop(*arguments):
    print("written", flush=True)
    time.sleep(100)

Path.replace = Path.rename = stop
{}
"""
"""A program that stops after writing, before the rename."""

WRITERS = {
    "file": (
        'replace_text(Path(sys.argv[1]) / "name", "new" * 9999)',
        lambda path: replace_text(path, "x"),
    ),
    "folder": (
        'create_folder(Path(sys.argv[1]) / "name", {"a": "1", "b": "2"})',
        lambda path: create_folder(path, {"a": "x"}),
    ),
    "run": (
        'RunFolder.create(Path(sys.argv[1]) / "name", "{}", {"seed": 1})',
        lambda path: RunFolder.create(path, "{}", {"seed": 2}),
    ),
}


def stopped(code, folder):
    words = [sys.executable, "-c", STOPPED.format(code), str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "written\n"
    return process


def kill(process):
    process.kill()
    process.communicate()


def names(folder):
    return sorted(item.name for item in folder.iterdir())


@pytest.mark.parametrize("kind", WRITERS)
def test_the_next_writer_removes_what_a_killed_one_has_left(tmp_path, kind):
    code, write = WRITERS[kind]
    process = stopped(code, tmp_path)
    assert len(names(tmp_path)) == 1
    assert not (tmp_path / "name").exists()
    write(tmp_path / "a[1]*")
    write(tmp_path / "name")
    assert len(names(tmp_path)) == 3, "the file of a running writer was removed"
    kill(process)
    (tmp_path / "name").rename(tmp_path / "moved")
    write(tmp_path / "name")
    assert names(tmp_path) == ["a[1]*", "moved", "name"]


REPLACES = """
import sys, time
from pathlib import Path
from evomerge.run import atomic

def stop(*arguments):
    print("written", flush=True)
    time.sleep(100)

rename = Path.rename
if sys.argv[1] == "between the renames":
    Path.rename = lambda path, to: stop() if path.name == "new" else rename(path, to)
else:
    atomic._remove = stop
atomic.replace_folder(Path("new"), Path("out"))
"""
"""A program that stops while it replaces a folder."""


@pytest.mark.parametrize(
    ("when", "comes_back"),
    [("between the renames", True), ("before the old one is removed", False)],
)
def test_a_folder_that_was_being_replaced_is_there_or_comes_back(tmp_path, when, comes_back):
    create_folder(tmp_path / "out", {"a": "old"})
    create_folder(tmp_path / "new", {"a": "new"})
    create_folder(tmp_path / "out.old-20261202", {"a": "a copy that the user made"})
    words = [sys.executable, "-c", REPLACES, when]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, cwd=tmp_path)
    assert process.stdout.readline() == "written\n"
    before = names(tmp_path)
    end_replacement(tmp_path / "out")
    assert names(tmp_path) == before, "the folder of a running writer was moved"
    kill(process)
    end_replacement(tmp_path / "out")
    left = ["new"] if comes_back else []
    assert names(tmp_path) == [*left, "out", "out.old-20261202"]
    assert (tmp_path / "out" / "a").read_text() == ("old" if comes_back else "new")


def test_opening_a_run_for_writing_removes_what_killed_writers_left(tmp_path):
    """An unfinished `best.yaml` is removed even if `best.yaml` is not written again."""
    run = RunFolder.create(tmp_path / "run", "{}", {})
    run.write("best.yaml", "old")
    for name in ("front/.3.yaml.partial-0", "models/.a.partial-0/x"):
        (run.path / name).parent.mkdir(parents=True, exist_ok=True)
        (run.path / name).touch()
    process = stopped('RunFolder(Path(sys.argv[1])).write("best.yaml", "new")', run.path)
    with run.writing():
        assert any(name.startswith(".best.yaml.") for name in names(run.path))
    kill(process)
    with run.writing():
        left = {path.name for path in run.path.rglob("*")}
    own = {"best.yaml", "journal.jsonl", "lock", "manifest.json", "search.yaml"}
    assert left == {*own, "front", "models"}
    assert (run.path / "best.yaml").read_text() == "old"


def test_a_run_can_be_created_where_a_link_points_to(tmp_path):
    (tmp_path / "link").symlink_to("real")
    RunFolder.create(tmp_path / "link", "seed: 5", {})
    assert (tmp_path / "link").is_symlink()
    assert RunFolder(tmp_path / "real").written() == {"seed": 5}
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "link", "{}", {})


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


def test_links_and_pipes_are_kept_and_new_files_follow_the_umask(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    replace_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "new"
    os.mkfifo(tmp_path / "pipe")
    reader = subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE, text=True)
    replace_text(tmp_path / "pipe", "said")
    assert reader.communicate()[0] == "said" and (tmp_path / "pipe").is_fifo()
    before = os.umask(0o027)
    try:
        replace_text(tmp_path / "file", "x")
        create_folder(tmp_path / "folder", {"a": "x"})
    finally:
        os.umask(before)
    rights = {name: (tmp_path / name).stat().st_mode & 0o777 for name in ("file", "folder")}
    assert rights == {"file": 0o640, "folder": 0o750}


def test_a_temporary_folder_is_private_and_a_killed_process_leaves_it_to_the_next(tmp_path):
    code = "folder = TemporaryFolder(Path(sys.argv[1])); (folder.path / 'x').touch(); stop()"
    process = stopped(code, tmp_path)
    (left,) = names(tmp_path)
    with TemporaryFolder(tmp_path) as folder:
        assert names(tmp_path) == sorted([left, folder.name])
        assert folder.stat().st_mode & 0o777 == 0o700
    kill(process)
    assert names(tmp_path) == [left]
    with TemporaryFolder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder]
    assert names(tmp_path) == []


def test_a_fork_leaves_a_temporary_folder_to_its_parent(tmp_path):
    folder = TemporaryFolder(tmp_path)
    child = os.fork()
    if child == 0:
        folder.close()
        os._exit(0)
    os.waitpid(child, 0)
    assert folder.path.is_dir()
    folder.close()
    assert names(tmp_path) == []
