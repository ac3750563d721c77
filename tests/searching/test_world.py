"""An error that is not a candidate's fault, or a signal, ends a search; `resume` goes on."""

import shutil
import signal
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import pytest
from executor_laws import job_of
from search_run import ended, evomerge, rows_of, start, write_judged

from evomerge import zoo
from evomerge.execute.protocol import Attempts

SOURCE = '''
import os
import resource
import shutil
import time

CALLS = []

def judge(model, tokenizer, documents):
    """Mean size of the first weights; the sixth call moves a parent away and ends the search.

    Or it cuts off the file of a parent.
    """
    spread = float(next(model.parameters()).detach().abs().mean())
    if len(documents) == 1:  # before the search
        return [spread]
    time.sleep(float(os.environ.get("PAUSE", 0)))
    CALLS.append(spread)
    if len(CALLS) == 6 and "PARENT" in os.environ:
        shutil.move(os.environ["PARENT"], os.environ["PARENT"] + ".away")
        raise KeyboardInterrupt
    if len(CALLS) == 6 and "FILE" in os.environ:
        os.truncate(os.environ["FILE"], 4096)
    if "DEVICE" in os.environ and len(CALLS) == 6:
        raise RuntimeError("CUDA error: device-side assert triggered")
    return [spread] * len(documents)

judge.documents = 12
'''


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unbroken")
    file = write_judged(folder, SOURCE)
    evomerge("search", file, "--run", folder / "run", PYTHONPATH=str(folder))
    return folder / "run"


def said(done: subprocess.CompletedProcess) -> str:
    """Return the last line that a command printed; check that it is an error in one sentence."""
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("evomerge: "), done.stderr
    assert "Traceback" not in done.stderr
    return line


@pytest.mark.thorough
def test_a_search_does_not_go_on_without_a_parent(tmp_path: Path) -> None:
    parent = tmp_path / "maths"
    shutil.copytree(zoo.path("maths"), parent)
    file = write_judged(tmp_path, SOURCE, parents=["zoo:language", str(parent)])
    about = {"PYTHONPATH": str(tmp_path)}
    evomerge("search", file, "--run", tmp_path / "whole", **about)
    run = tmp_path / "run"
    evomerge("search", file, "--run", run, code=130, **about, PARENT=str(parent))
    assert str(parent) in said(evomerge("resume", run, code=2, **about))
    rows = rows_of(tmp_path / "whole")
    assert rows_of(run) == rows[: len(rows_of(run))]
    assert not any(b'"failure"' in row for row in rows_of(run))
    shutil.move(f"{parent}.away", parent)
    evomerge("resume", run, **about)
    assert rows_of(run) == rows


@pytest.mark.thorough
def test_a_parent_that_is_cut_off_is_one_sentence(unbroken: Path, tmp_path: Path) -> None:
    """The search ended by SIGBUS."""
    parent = tmp_path / "maths"
    shutil.copytree(zoo.path("maths"), parent)
    file = write_judged(tmp_path, SOURCE, parents=["zoo:language", str(parent)])
    weights, run = parent / "model.safetensors", tmp_path / "run"
    about = {"PYTHONPATH": str(tmp_path)}
    stopped = evomerge("search", file, "--run", run, code=2, **about, FILE=str(weights))
    assert f"{weights} was changed" in said(stopped)
    assert str(weights) in said(evomerge("resume", run, code=2, **about))
    shutil.copy(zoo.path("maths") / weights.name, weights)
    evomerge("resume", run, **about)
    assert not any(b'"failure"' in row for row in rows_of(run))
    told = [row for row in rows_of(run) if b'"tell"' in row]
    assert len(told) == sum(b'"tell"' in row for row in rows_of(unbroken))


@pytest.mark.thorough
def test_a_failed_device_stops_the_search_and_counts_as_an_attempt(unbroken, tmp_path):
    file, run = write_judged(tmp_path, SOURCE), tmp_path / "run"
    about = {"PYTHONPATH": str(tmp_path)}
    line = said(evomerge("search", file, "--run", run, code=1, **about, DEVICE="1"))
    assert "The device failed" in line
    assert "candidate 5 (CUDA error: device-side assert triggered)" in line
    assert unfinished(run) == [5]
    evomerge("resume", run, **about)
    assert rows_of(run) == rows_of(unbroken)


def unfinished(run: Path) -> list[int]:
    """Return the candidates whose jobs began and did not end."""
    attempts = Attempts(run)
    jobs = (replace(job_of(number), split="search") for number in range(40))
    return [job.candidate for job in jobs if any(attempts.count(job))]


def send_when(arguments: list, run: Path, number: int, lines: int, **about: str) -> tuple[int, str]:
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


@pytest.mark.parametrize(
    ("number", "code", "word"),
    [(signal.SIGTERM, 143, "terminated"), (signal.SIGINT, 130, "interrupted")],
    ids=["SIGTERM", "SIGINT"],
)
def test_a_signal_ends_a_search_in_order(unbroken, tmp_path, number, code, word):
    run = tmp_path / "run"
    about = {"PYTHONPATH": str(tmp_path), "PAUSE": "0.3"}
    arguments = ["search", write_judged(tmp_path, SOURCE), "--run", run]
    for lines in (8, 15):
        found, told = send_when(arguments, run, number, lines, **about)
        assert found == code, told
        sentence = f"{word}; nothing is lost, continue with `evomerge resume {run}`"
        assert sentence in " ".join(told.split())
        assert "Traceback" not in told
        assert not unfinished(run)
        arguments = ["resume", run]
    evomerge("resume", run, PYTHONPATH=str(tmp_path))
    assert rows_of(run) == rows_of(unbroken)
