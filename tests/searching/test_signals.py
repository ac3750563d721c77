"""A search that is interrupted or terminated prints this, and can be resumed."""

import signal
import subprocess
import sys
import tempfile
import time

import pytest
from judging import rows_of, write_judged
from search_run import ended, evomerge, start

from evomerge.run.attempts import Attempts

SOURCE = """
import os
import time

class Freed:
    def __del__(self):
        time.sleep(float(os.environ.get("PAUSE_FREEING", 0)))

def judge(model, tokenizer, documents):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    Freed()
    return [float(next(model.parameters()).detach().abs().mean())] * len(documents)

judge.documents = 12
"""


def send_when(arguments, run, number: int, lines: int, **about):
    """Start a command and send it a signal once the journal has so many lines, one of them new."""
    journal = run / "journal.jsonl"
    lines = max(lines, 1 + (len(rows_of(run)) if journal.exists() else 0))
    with tempfile.TemporaryFile("w+") as printed:
        process = start(*arguments, stdout=printed, stderr=printed, **about)
        with ended(process):
            while process.poll() is None and (not journal.exists() or len(rows_of(run)) < lines):
                time.sleep(0.01)
            time.sleep(0.15)  # the next candidate is being scored
            process.send_signal(number)
            code = process.wait(250)
        printed.seek(0)
        return code, printed.read()


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("unbroken")
    file = write_judged(folder, SOURCE)
    evomerge("search", file, "--run", folder / "run", PYTHONPATH=str(folder))
    return folder / "run"


@pytest.mark.parametrize("pause", ["PAUSE", "PAUSE_FREEING"])
@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_ends_a_search_in_order(unbroken, tmp_path, number, code, word, pause):
    """Also one that comes while an object is freed, where Python ignores exceptions."""
    run = tmp_path / "run"
    about = {"PYTHONPATH": str(tmp_path), pause: "0.3"}
    arguments = ["search", write_judged(tmp_path, SOURCE), "--run", run]
    for lines in (8, 15):
        found, said = send_when(arguments, run, number, lines, **about)
        assert found == code, said
        sentence = f"{word}; nothing is lost, continue with `evomerge resume {run}`"
        assert sentence in " ".join(said.split())
        assert "Traceback" not in said
        left = Attempts(run / "attempts.jsonl")
        assert not any(left.count(f"{candidate} search") for candidate in range(12))
        arguments = ["resume", run]
    evomerge("resume", run, PYTHONPATH=str(tmp_path))
    assert rows_of(run) == rows_of(unbroken)


def test_an_object_that_cannot_be_freed_prints_a_traceback_with_debug_only():
    program = (
        "import sys\n"
        "from evomerge.__main__ import _send_again\n"
        "sys.unraisablehook = _send_again\n"
        "class Half:\n"
        "    def __del__(self):\n"
        "        self.missing\n"
        "Half()\n"
    )
    for option, found in (([], 0), (["--debug"], 1)):
        done = subprocess.run(
            [sys.executable, "-c", program, *option], capture_output=True, text=True, check=True
        )
        assert done.stderr.count("Traceback") == found
