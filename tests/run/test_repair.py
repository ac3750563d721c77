"""A damaged journal is cut only if a person says so, and the damaged file is kept."""

import random
import warnings

import pytest
from run_folders import STATES, asked, lines_of, told, write_run
from run_folders import scores as scored
from scripted import ScriptedExecutor, search

from evomerge.errors import ConfigError, RunFolderError
from evomerge.run.journal import truncate
from evomerge.run.lines import HEADER


def damage(run, line):
    lines = run.journal_path.read_bytes().splitlines(keepends=True)
    lines[line - 1] = lines[line - 1].replace(b'"', b"'", 1)
    run.journal_path.write_bytes(b"".join(lines))
    return run.journal_path.read_bytes()


def test_the_journal_is_cut_before_the_first_bad_line_and_kept(tmp_path):
    run = write_run(tmp_path / "run", [asked(0, "a"), told(0, scored(3)), asked(1, "b")])
    for number, line in ((1, 4), (2, 3), (3, 1)):
        damaged = damage(run, line)
        cut = truncate(run.journal_path)
        count, kept = damaged.count(b"\n") - line + 1, f"journal.jsonl.damaged-{number}"
        assert (run.path / kept).read_bytes() == damaged
        dropped = "1 event was dropped" if count == 1 else f"{count} events were dropped"
        assert f"cut before line {line}: {dropped}, and {run.path / kept} has them" in cut
        with run.writing() as journal:
            assert len(journal.events) == max(line - 1, 1)
    assert run.events() == [HEADER]


def test_a_journal_that_is_torn_or_whole_is_left_as_it_is(tmp_path):
    for name in ("being written", "empty"):
        run = write_run(tmp_path / name, *STATES[name])
        before = run.journal_path.read_bytes()
        assert truncate(run.journal_path) is None
        assert run.journal_path.read_bytes() == before
        assert not list(run.path.glob("*.damaged-*"))


def test_another_format_or_a_writer_is_respected(tmp_path):
    run = write_run(tmp_path / "run", [])
    with run.writing(), pytest.raises(RunFolderError, match="is being written"):
        truncate(run.journal_path)
    run.journal_path.write_bytes(lines_of([{"event": "header", "format": 4}])[0])
    with pytest.raises(RunFolderError, match="format 4"):
        truncate(run.journal_path)


def test_a_search_goes_on_from_there_and_ends_the_same(tmp_path):
    def go(folder):
        return search(folder, ScriptedExecutor(1, random.Random(0), 0.1), candidates=20)

    go(tmp_path / "whole")
    go(tmp_path / "run")
    path = tmp_path / "run" / "journal.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] + whole[len(whole) // 2 + 7 :])
    with pytest.raises(RunFolderError, match="--truncate"):
        go(tmp_path / "run")
    assert truncate(path) is not None
    go(tmp_path / "run")
    assert path.read_bytes() == (tmp_path / "whole" / "journal.jsonl").read_bytes()


def test_resume_truncates_only_if_told_to(tmp_path):
    """The command and the function say what was dropped; the search itself is not begun here."""
    import evomerge
    from evomerge.__main__ import run as call

    run = write_run(tmp_path / "run", [asked(0, "a"), told(0, scored(3))])
    (run.path / "search.yaml").write_text("seed: 1\nfrozen: {}\n")
    (run.path / "manifest.json").unlink()
    damaged = damage(run, 3)
    with pytest.raises(RunFolderError, match=r"line 3 .*; restore it.*--truncate`"):
        run.events()
    with pytest.raises(ConfigError):
        call(["resume", str(run.path)])
    assert run.journal_path.read_bytes() == damaged
    with pytest.raises(ConfigError):
        call(["resume", str(run.path), "--truncate"])
    assert len(run.events()) == 2
    damage(run, 2)
    with (
        warnings.catch_warnings(record=True) as said,
        pytest.raises(ConfigError),
    ):
        warnings.simplefilter("always")
        evomerge.resume(run.path, truncate=True)
    assert ["cut before line 2: 1 event was dropped" in str(item.message) for item in said] == [
        True
    ]
