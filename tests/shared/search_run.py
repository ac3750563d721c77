"""For tests of whole searches: small search files, and functions that run them and commands."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import yaml
from prefork import Forked, can_fork

from evomerge import Run, search

if TYPE_CHECKING:
    from evomerge.problem.problem import Problem

Process = TypeVar("Process", Forked, subprocess.Popen)

SMALL = {
    "seed": 1,
    "parents": ["zoo:language", "zoo:maths"],
    "base": "zoo:base",
    "dtype": "float32",
    "space": {
        "kind": "parameters", "method": "task_arithmetic", "groups": 2,
        "knobs": {"weight": [0.0, 2.0]},
    },
    "optimizer": {"name": "cma"},
    "objectives": [{"task": "zoo_l2_maths", "metric": "exact_match"}],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 24},
        "validation": {"documents": 16, "finalists": 2},
        "test": {"documents": 32},
    },
    "budget": {"candidates": 22},
}  # fmt: skip


TRUSTING = ("search", "resume", "validate", "evaluate")
"""Commands that take `--trust-code`."""


def write_search(folder: Path, **changes) -> Path:
    path = folder / "search.yaml"
    path.write_text(yaml.safe_dump(SMALL | changes))
    return path


def command(*arguments, module: str = "evomerge") -> list[str]:
    return [sys.executable, "-m", module, *map(str, arguments)]


def environment(**more) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **more}


def start(
    *arguments, stdout: IO, stderr: IO, module: str = "evomerge", cwd: Path | None = None, **more
):
    """Start a command; what it prints, and its messages, go to open files."""
    if "PYTHONPATH" in more and arguments[0] in TRUSTING:
        arguments = (*dict.fromkeys((*arguments, "--trust-code")),)
    about = {"cwd": cwd, "env": environment(**more), "stdout": stdout, "stderr": stderr}
    if can_fork(more):
        return Forked([*map(str, arguments)], module=module, **about)
    return subprocess.Popen(command(*arguments, module=module), **about)


@contextmanager
def ended(process: Process) -> Iterator[Process]:
    """Yield a process that has begun, and kill it if it still runs when the block ends or fails."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def evomerge(
    *arguments, code: int = 0, module: str = "evomerge", cwd: Path | None = None, **more
) -> subprocess.CompletedProcess:
    """Run a command to its end."""
    with tempfile.TemporaryFile("w+") as stdout, tempfile.TemporaryFile("w+") as stderr:
        process = start(*arguments, stdout=stdout, stderr=stderr, module=module, cwd=cwd, **more)
        with ended(process):
            process.wait(600)
        for file in (stdout, stderr):
            file.seek(0)
        texts = stdout.read(), stderr.read()
        done = subprocess.CompletedProcess(arguments, process.returncode, *texts)
    assert done.returncode == code, done.stderr
    return done


def evomerge_json(*arguments):
    return json.loads(evomerge(*arguments, "--json").stdout)


def kill_when(arguments, journal, lines: int, delay: float, **more) -> int:
    """Start a command, and kill it `delay` seconds after the journal has `lines` lines."""
    with Path(os.devnull).open("w") as nowhere:
        process = start(*arguments, stdout=nowhere, stderr=nowhere, **more)
    with ended(process):
        while process.poll() is None:
            if journal.exists() and journal.read_bytes().count(b"\n") >= lines:
                time.sleep(delay)
                break
            time.sleep(0.002)
    return process.returncode


def events_of(run: Path) -> dict[tuple, str]:
    """Return what a journal says of each candidate; the order of outcomes may differ."""
    found = {}
    for line in (run / "journal.jsonl").read_text().splitlines():
        event = json.loads(line)
        del event["n"], event["check"]
        key = (event["event"], event.get("candidate"), event.get("split"))
        assert key not in found or event["event"] in ("budget", "threads")
        found[key] = json.dumps(event, sort_keys=True)
    found.pop(("run", None, None), None)  # what differs between machines
    return found


def searched(file: Path, run: Path, **how: Any) -> Run:
    """Search in this process, without warnings and a bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return search(file, run, progress=False, **how)


def search_over(parents: list[Path], base: Path, *, chat: bool = False, **more: Any) -> dict:
    """Return a search file for a few candidates on arithmetic."""
    evaluation = {**SMALL["evaluation"], "chat_template": chat}
    models: dict[str, Any] = {"parents": list(map(str, parents)), "base": str(base)}
    if base in parents:  # it would have no task vector
        models |= {"base": None, "space": {**SMALL["space"], "method": "linear", "host": str(base)}}
    objectives = [{"task": "zoo_maths", "metric": "exact_match"}]
    about = {"objectives": objectives, "evaluation": evaluation, "budget": {"candidates": 4}}
    return {**SMALL, **models, **about, **more}


def problem_of(data: dict) -> "Problem":
    """Return the problem of a search file."""
    from evomerge.config.schema import parse
    from evomerge.problem.runs import prepare

    return prepare(parse(data, "search.yaml"), Path.cwd())


SPLITS = {
    "search": {"documents": 4},
    "validation": {"documents": 4, "finalists": 2},
    "test": {"documents": 4},
}
"""The splits of a search by `write_judged`, whose objective has 12 documents."""


def write_judged(folder: Path, source: str, **changes) -> Path:
    """Write `judging.py` and a search file with `judging:judge` as the only objective."""
    (folder / "judging.py").write_text(source)
    given = {
        "objectives": [{"task": "judging:judge", "metric": "score"}],
        "evaluation": SPLITS,
        "budget": {"candidates": 12},
    }
    return write_search(folder, **(given | changes))


def rows_of(run: Path) -> list[bytes]:
    """Return the journal's lines."""
    return (run / "journal.jsonl").read_bytes().splitlines()
