"""A result that cannot be written is refused at once, before anything is read or computed."""

import errno
import os
import sys

import pytest
from run_folders import STATES, write_run
from search_run import write_search

import evomerge
from evomerge.__main__ import run as call
from evomerge.errors import InputError

NOWHERE = "/proc/nowhere/at/all"
"""Nobody can make this folder, root neither."""


@pytest.fixture
def unread(monkeypatch):
    """Let every attempt to open a parent fail the test."""

    def fail(*arguments, **options):
        raise AssertionError("it was read before it was known that nothing can be written")

    for name in ("runs.resolve", "runs.reopen", "parents.open_parent"):
        monkeypatch.setattr(f"evomerge.problem.{name}", fail)


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_an_output_that_cannot_be_made_is_refused_before_anything_is_read(tmp_path, unread):
    file = write_search(tmp_path)
    run = write_run(tmp_path / "run", STATES["being written"][0]).path
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("host: zoo:maths\nlayers: {}\n")
    for arguments in (
        ["search", file, "--run", NOWHERE],
        ["export", run, "--out", NOWHERE],
        ["merge", recipe, "--out", NOWHERE],
        ["search", file, "--run", tmp_path / ("x" * 300)],
        ["search", file, "--run", file / "run"],
    ):
        with pytest.raises(InputError, match=r"cannot be (created|written): .*; .*") as caught:
            call([str(item) for item in arguments])
        assert caught.value.exit_code == 2


def test_a_run_folder_that_cannot_be_written_is_not_continued(tmp_path, unread, monkeypatch):
    """As on a file system that is mounted read-only, which also stops root."""

    def refuse(path, *arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    run = write_run(tmp_path / "run", STATES["being written"][0]).path
    monkeypatch.setattr(os, "mkdir", refuse)
    reason = r"cannot be continued: nothing can be written into .* \(Read-only file system\); make"
    for resume in (lambda: call(["resume", str(run)]), lambda: evomerge.resume(run)):
        with pytest.raises(InputError, match=reason):
            resume()


def test_a_check_leaves_nothing_behind(tmp_path, unread):
    with pytest.raises(AssertionError, match="before it was known"):
        call(["search", str(write_search(tmp_path)), "--run", str(tmp_path / "a" / "run")])
    assert [item.name for item in tmp_path.iterdir()] == ["search.yaml"]
