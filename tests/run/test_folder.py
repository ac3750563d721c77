"""A run folder is created in one step, has one writer, and is never overwritten."""

import subprocess
import sys

import pytest

from evomerge.errors import RunFolderError
from evomerge.run.folder import RunFolder
from evomerge.run.journal import FORMAT

HOLD = """
import sys, time
from pathlib import Path
from evomerge.run.folder import RunFolder
with RunFolder(Path(sys.argv[1])).writing():
    print("held", flush=True)
    time.sleep(60)
"""


def test_create_then_open(tmp_path):
    RunFolder.create(tmp_path / "deep" / "run", "{}", {"config": {"seed": 3}})
    run = RunFolder(tmp_path / "deep" / "run")
    assert run.manifest()["config"] == {"seed": 3}
    assert run.events() == [{"event": "header", "format": FORMAT}]
    assert sorted(item.name for item in (tmp_path / "deep").iterdir()) == ["run"]


def test_an_existing_run_names_resume(tmp_path):
    RunFolder.create(tmp_path / "run", "{}", {})
    with pytest.raises(RunFolderError, match="go on with it by --resume"):
        RunFolder.create(tmp_path / "run", "{}", {})


def test_a_folder_with_other_things_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunFolderError, match="not a run folder"):
        RunFolder.create(tmp_path, "{}", {})
    assert [item.name for item in tmp_path.iterdir()] == ["thesis.tex"]


def test_an_empty_folder_is_taken(tmp_path):
    (tmp_path / "run").mkdir()
    RunFolder.create(tmp_path / "run", "seed: 1", {"config": {}})
    assert RunFolder(tmp_path / "run").written() == {"seed": 1}


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
    for old, new in (("seed: 1", "seed: 2"), ("tol: 1e-05\n", ""), ("workers: 1", "workers: 2")):
        assert "was changed after the run began" in str(refusal("search.yaml", old, new))
    for old, new in (('"a"', '"b"'), ('"seed": 1', '"seed": 2'), ('"digest": "', '"digest": "0')):
        assert "was changed after the run began" in str(refusal("manifest.json", old, new))
    assert "cannot be read as JSON" in str(refusal("manifest.json", '"a"', '"a'))
    assert "run of another version of evomerge" in str(refusal("manifest.json", "config", "seed"))
    (run.path / "manifest.json").unlink()
    with pytest.raises(RunFolderError, match=r"has no manifest\.json; put it back from a copy"):
        run.manifest()


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_opening_a_folder_that_is_not_a_run(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=name):
        RunFolder(tmp_path / name)


def test_two_processes_that_create_the_same_run(tmp_path, monkeypatch):
    """Both have found the folder free; the later one gets an error and writes nothing."""
    check, checked = RunFolder.check_free, []

    def check_then_meet(path):
        check(path)
        checked.append(path)
        if len(checked) == 1:
            RunFolder.create(path, "seed: 1", {})

    monkeypatch.setattr(RunFolder, "check_free", staticmethod(check_then_meet))
    with pytest.raises(RunFolderError, match="already holds a run"):
        RunFolder.create(tmp_path / "run", "seed: 2", {})
    assert RunFolder(tmp_path / "run").written() == {"seed": 1}


def test_only_one_writer_and_a_kill_releases_the_lock(tmp_path):
    run = RunFolder.create(tmp_path / "run", "{}", {})
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline().strip() == "held"
    try:
        assert run.is_running
        with pytest.raises(RunFolderError, match=str(holder.pid)), run.writing():
            pass
    finally:
        holder.kill()
        holder.wait()
    assert not run.is_running
    with run.writing():
        assert run.is_running


def test_warnings_of_a_run_are_printed_and_logged(tmp_path):
    """In a process of its own, since pytest adds handlers of its own."""
    run = RunFolder.create(tmp_path / "run", "{}", {})
    program = (
        "import logging, pathlib, sys\n"
        "from evomerge.run.folder import RunFolder\n"
        "with RunFolder(pathlib.Path(sys.argv[1])).logged():\n"
        "    logging.getLogger('evomerge.searching').warning('a worker is late')\n"
        "    logging.getLogger('evomerge.searching').info('a detail')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(run.path)], capture_output=True, text=True, check=True
    )
    assert done.stderr.splitlines() == ["a worker is late"]
    log = (run.path / "log.txt").read_text()
    assert "WARNING a worker is late" in log and "INFO a detail" in log
