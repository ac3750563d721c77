"""What code of a model can do: each program here is one wrong answer, and leaves nothing."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
from trusting import trust

from evomerge.evaluation.sandbox import code_eval
from evomerge.evaluation.sandbox.confinement import Protection
from evomerge.evaluation.sandbox.sandbox import CallError, Function, Sandbox
from evomerge.run.atomic import TemporaryFolder

COMPUTE = Function(code_eval.__name__, code_eval.__file__, "compute")
DUMPS = Function("json", sys.modules["json"].__file__, "dumps")


@pytest.fixture(scope="module", autouse=True)
def own_temporary_folder():
    """Let nothing be seen here of the sandboxes of tests that run at the same time."""
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox()


def passes(sandbox, program, timeout=60.0):
    """Return whether a program passes, as an answer of a code task."""
    options = {"k": [1], "timeout": timeout, "seconds": 120}
    return sandbox.call(COMPUTE, [""], [[program]], **options)[0]["pass@1"] == 1


def cells():
    """Return the processes of sandboxes that wait for calls of this process."""
    found = set()
    for child in psutil.Process().children():
        with contextlib.suppress(psutil.Error):  # it has just ended
            if "evomerge.evaluation.sandbox.cell" in " ".join(child.cmdline()):
                found.add(child)
    return found


def left_over():
    """Return the folders and the processes of sandboxes, without those that only wait."""
    below = [item for cell in cells() for item in cell.children(recursive=True)]
    folders = Path(tempfile.gettempdir()).glob(".evomerge.partial-*/*")
    return below, list(folders)


HARMFUL = {
    "allocates": "x = bytearray(10 << 30)",
    "forks": "import os\nwhile True: os.fork()",
    "forks past the guard": "import posix, time\nfor _ in range(80):\n    if posix.fork() == 0: "
    "time.sleep(600)\nraise ValueError",
    "writes outside": "open({outside!r}, 'w').write('x')",
    "reads outside": "open({secret!r}).read()",
    "kills its parent": "import os; os.kill(os.getppid(), 9)",
    "kills its parent past the guard": "import posix; posix.kill(posix.getppid(), 9); 1 / 0",
    "kills all": "import posix; posix.kill(-1, 9)",
    "prints": "print('x' * 100_000_000)",
    "writes 100 MB": "open('big', 'wb').write(bytes(100 << 20))",
    "exits": "import os; os._exit(0)",
    "raises SystemExit": "raise SystemExit(0)",
    "replaces the exit": "import os; os._exit = None; raise SystemExit(0)",
    "connects": "import socket; socket.create_connection(('127.0.0.1', {port}), 2)",
    "deletes": "import os, shutil; shutil.rmtree('.')",
    "reads of the parent": "import os; open(f'/proc/{{os.getppid()}}/environ', 'rb').read()[0]",
    "reads of the search": "open('/proc/{pid}/environ', 'rb').read()",
    "crashes": "import ctypes; ctypes.string_at(0)",
    "reads input": "input()",
    "recurses": "def f(): f()\nf()",
}


@pytest.fixture(scope="module")
def harm(tmp_path_factory):
    """A folder, a server and this process, for programs to do harm to."""
    import socket

    folder = tmp_path_factory.mktemp("secret")
    (folder / "secret.txt").write_text("hf_secret")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield {
            "outside": str(folder / "written"),
            "secret": str(folder / "secret.txt"),
            "port": server.getsockname()[1],
            "pid": os.getpid(),
        }
    assert [path.name for path in folder.iterdir()] == ["secret.txt"]


@pytest.mark.parametrize("what", HARMFUL)
def test_a_harmful_program_is_a_wrong_answer_and_leaves_nothing(sandbox, harm, what):
    if sandbox.protection.gaps:
        pytest.skip(f"this system lets code {', '.join(sandbox.protection.gaps)}")
    assert not passes(sandbox, HARMFUL[what].format(**harm))
    assert passes(sandbox, "assert 1 + 1 == 2")
    assert left_over() == ([], [])


def test_a_program_that_never_ends_fails_after_its_time(sandbox):
    assert not passes(sandbox, "while True:\n    try: 1 + 1\n    except Exception: pass", 0.5)
    assert not passes(sandbox, "import time\ntime.sleep(60)", 0.5)
    assert left_over() == ([], [])


def test_processes_and_folders_that_a_program_hides_are_removed(sandbox):
    program = (
        "import posix, time\nposix.mkdir('closed')\nposix.mkdir('closed/in')\n"
        "posix.chmod('closed', 0)\nif posix.fork() == 0:\n    posix.setsid()\n"
        "    if posix.fork() == 0: time.sleep(600)\n    posix._exit(0)"
    )
    assert passes(sandbox, program)
    assert left_over() == ([], [])


def test_a_program_has_no_environment_of_the_search(sandbox, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    fresh = Sandbox()
    look = "{0}; assert 'hf_secret' not in str(dict(os.environ)) + str({1})"
    own = "open('/proc/self/environ').read()"
    assert passes(fresh, look.format("import os", own))
    assert passes(fresh, "import os; assert os.environ['HOME'] == os.environ['TMPDIR']")


@pytest.mark.parametrize(
    "source",
    ["import os; os._exit(0)", "import os; os.write(7, b'x' * 9)", "while True: pass"],
    ids=["ends", "writes", "hangs"],
)
def test_a_function_that_gives_no_result_raises(sandbox, tmp_path, source):
    (tmp_path / "own.py").write_text(f"def run():\n    exec({source!r})\n    raise KeyError('x')\n")
    trust(tmp_path)
    with pytest.raises(CallError):
        sandbox.call(Function("own", str(tmp_path / "own.py"), "run"), seconds=1)
    assert sandbox.call(DUMPS, [1], seconds=120) == "[1]"


def test_a_result_without_an_end_is_no_result(sandbox, tmp_path):
    (tmp_path / "long.py").write_text("def run():\n    return 'x' * 20_000_000\n")
    trust(tmp_path)
    with pytest.raises(CallError):
        sandbox.call(Function("long", str(tmp_path / "long.py"), "run"), seconds=120)


def test_a_cell_that_is_killed_is_replaced():
    before, sandbox = cells(), Sandbox()
    assert sandbox.call(DUMPS, [1], seconds=120) == "[1]"
    (cell,) = cells() - before
    cell.kill()
    with pytest.raises(CallError):
        sandbox.call(DUMPS, [1], seconds=120)
    assert sandbox.call(DUMPS, [1], seconds=120) == "[1]"


def test_a_cell_that_is_killed_in_a_call_leaves_nothing(tmp_path):
    """This can happen only where the system lets no process hide from others."""
    (tmp_path / "slow.py").write_text(
        "import time\ndef run():\n    open('begun', 'w').close()\n    time.sleep(600)\n"
    )
    trust(tmp_path)
    sandbox, slow = Sandbox(), Function("slow", str(tmp_path / "slow.py"), "run")
    before = cells()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(sandbox.call, slow, seconds=60)
        while not list(Path(tempfile.gettempdir()).glob(".evomerge.partial-*/*/begun")):
            assert not call.done()
        (cell,) = cells() - before
        below = cell.children(recursive=True)
        cell.kill()
        with pytest.raises(CallError):
            call.result()
    assert below and psutil.wait_procs(below, timeout=250)[1] == []
    assert left_over() == ([], [])


def test_cells_and_their_folders_end_with_the_process_that_was_killed(tmp_path):
    script = (
        "import json, os, time\nfrom evomerge.evaluation.sandbox.sandbox import *\n"
        "sandbox = Sandbox()\n"
        "sandbox.call(Function('json', json.__file__, 'dumps'), 1, seconds=120)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(60)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    process.stdout.readline()
    assert len(list(tmp_path.iterdir())) == 1
    cells = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert len(cells) == 1
    gone, alive = psutil.wait_procs(cells, timeout=250)
    assert (len(gone), alive) == (1, [])
    with TemporaryFolder(tmp_path):  # as a later command makes one
        assert len(list(tmp_path.iterdir())) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("protection", "words"),
    [
        (Protection(True, 7), []),
        (Protection(True, 0), ["files"]),
        (Protection(False, 3), ["network", "end your", "any number"]),
        (Protection(False, 0), ["network", "end your", "any number", "files"]),
    ],
)
def test_gaps_are_what_neither_mechanism_covers(protection, words):
    assert len(protection.gaps) == len(words)
    assert all(word in gap for word, gap in zip(words, protection.gaps, strict=True))


WITHOUT = """
import sys, tempfile
from pathlib import Path
from evomerge.evaluation.sandbox import cell, code_eval, kernel
from evomerge.evaluation.sandbox.confinement import Protection

kernel.adopt_orphans()
code_eval.allow()
with tempfile.TemporaryDirectory() as folder:
    for program in sys.argv[1:]:
        call = code_eval.compute, ([""], [[program]]), {"k": [1], "timeout": 3.0}
        print(cell._call(call, 60, Protection(False, 0), Path(folder)))
        assert not list(Path(folder).iterdir()) and not kernel.children()
"""


def test_where_the_system_allows_nothing_the_other_limits_hold():
    programs = {
        "assert 1 + 1 == 2": "1.0",
        "x = bytearray(10 << 30)": "0.0",
        "while True: pass": "0.0",
        "open('big', 'wb').write(bytes(100 << 20))": "0.0",
        "import posix\nif posix.fork() == 0:\n    posix.setsid()\n    while True: pass": "1.0",
        "import posix; posix.kill(posix.getppid(), 9)": "lost",
    }
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *programs], capture_output=True, text=True, timeout=250
    )
    assert done.returncode == 0, done.stderr
    for line, word in zip(done.stdout.splitlines(), programs.values(), strict=True):
        assert word in line
