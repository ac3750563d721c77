"""Processes with limits: what they start ends with them, also where namespaces are not allowed."""

import os
import sys

import psutil
import pytest

from evomerge.evaluation.lm_eval import confined

pytestmark = [
    pytest.mark.thorough,
    pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only"),
]

MARK = "--of-test-confined"


@pytest.fixture(params=["namespaces", "users", "none"])
def tier(request, monkeypatch):
    """What the kernel allows; it may be less than this machine does."""
    flags = {"namespaces": confined.namespaces(), "users": confined._NEW_USERS, "none": 0}
    if request.param != "none" and not confined.namespaces():
        pytest.skip("this machine permits no namespaces")
    monkeypatch.setattr(confined, "namespaces", lambda: flags[request.param])
    return request.param


def run(program, folder, seconds=5, keep=0):
    """Run a program in a watched process, and return how its watcher ended."""
    run_program = lambda: exec(program, {"__name__": "program"})  # noqa: E731
    watcher = confined.run_watched(run_program, folder, seconds, keep)
    return os.waitstatus_to_exitcode(os.waitpid(watcher, 0)[1])


def survivors(mark):
    lines = (
        (process, process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])
    )
    return [process for process, line in lines if mark in line]


SLEEPER = [sys.executable, "-c", "import time; time.sleep(600)", MARK]

ESCAPES = {
    "sets its own session": f"""
import subprocess
subprocess.Popen({SLEEPER}, start_new_session=True)""",
    "forks twice": f"""
import os, time
if not os.fork():
    os.setsid()
    if not os.fork():
        os.setsid()
        os.execv({sys.executable!r}, {SLEEPER})
    os._exit(0)
time.sleep(0.5)""",
    "is forked again and again": f"""
import os, signal, subprocess, sys, time
if not os.fork():
    os.setsid()
    for number in range(10000):
        if os.fork():
            os._exit(0)
        os.setsid()
        if number % 50 == 49:
            subprocess.Popen({SLEEPER}, start_new_session=True)
time.sleep(1)""",
}


@pytest.mark.parametrize("program", ESCAPES.values(), ids=ESCAPES)
def test_nothing_outlives_a_process(tier, program, tmp_path):
    assert run(program, tmp_path) == 0
    assert not survivors(MARK)


def test_many_processes_are_ended_together(tier, tmp_path, monkeypatch):
    monkeypatch.setattr(confined, "_PROCESSES", 20)
    bomb = f"""
import subprocess, time
for _ in range(40): subprocess.Popen({SLEEPER}, start_new_session=True)
open("survived", "w").close()
time.sleep(60)
open("slept", "w").close()"""
    assert run(bomb, tmp_path, seconds=100) == 0
    assert not survivors(MARK)
    assert not (tmp_path / "slept").exists()


def test_memory_is_limited_for_all_processes_together(tier, tmp_path, monkeypatch):
    """Pages that they share count once."""
    monkeypatch.setattr(confined, "_MEMORY_TOGETHER", (200 << 20) + memory_of_this_process())
    program = """
import os, time
shared = b"x" * {shared}
for _ in range(6):
    if not os.fork():
        own = b"y" * {own}
        time.sleep({seconds})
        os._exit(0)
time.sleep({seconds} + 1)
open("slept", "w").close()"""
    sizes = {"shared": 80 << 20, "own": 1 << 10, "seconds": 2}
    assert run(program.format(**sizes), tmp_path, seconds=100) == 0
    assert (tmp_path / "slept").exists()
    (tmp_path / "slept").unlink()
    sizes = {"shared": 1 << 10, "own": 250 << 20, "seconds": 60}
    assert run(program.format(**sizes), tmp_path, seconds=100) == 0
    assert not (tmp_path / "slept").exists()


def memory_of_this_process():
    return psutil.Process().memory_info().rss


def test_a_process_sees_itself_as_without_namespaces(tier, tmp_path):
    program = """
import os, psutil, signal, subprocess
assert psutil.Process().pid == os.getpid() and psutil.Process().cmdline()
assert os.getuid() == {user} and os.path.samefile(os.getcwd(), {folder!r})
assert subprocess.run(["true"]).returncode == 0
open("seen", "w").close()
os.kill(os.getpid(), signal.SIGTERM)
open("survived", "w").close()"""
    assert run(program.format(user=os.getuid(), folder=str(tmp_path)), tmp_path) == 0
    assert [file.name for file in tmp_path.iterdir()] == ["seen"]


def test_a_killed_watcher_takes_its_process_along(tier, tmp_path):
    sleep = f"import os; os.execv({sys.executable!r}, {SLEEPER})"
    watcher = confined.run_watched(lambda: exec(sleep), tmp_path, 100, 0)
    while not survivors(MARK):
        pass
    left = survivors(MARK)
    os.kill(watcher, 9)
    os.waitpid(watcher, 0)
    assert not psutil.wait_procs(left, timeout=60)[1]
