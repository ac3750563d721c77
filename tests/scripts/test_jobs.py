"""The job files of the examples really run a search, end in order, and go on where they were.

Small scripts stand in for the commands of Slurm and Ray; evomerge and the search are real.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml
from search_run import environment, rows_of, write_judged
from search_run import start as start_command

pytestmark = pytest.mark.thorough

EXAMPLES = Path(__file__).parents[2] / "examples"

SOURCE = """
import os
import time

def judge(model, tokenizer, documents):
    time.sleep(float(os.environ.get("PAUSE", 0)))
    return [float(next(model.parameters()).detach().abs().mean())] * len(documents)

judge.documents = 12
"""

COMMANDS = {
    # What srun starts is a process group of its own, which gets Slurm's signals.
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done\n'
    'echo $$ > "$STATE/group"; echo "$@" >> "$STATE/started"; exec setsid "$@"',
    "ray": '[ "$1" = symmetric-run ] || exit 2\n'
    'while [ "$1" != -- ]; do echo "$1" >> "$STATE/ray"; shift; done; shift\n"$@"',
    "squeue": 'cat "$STATE/job"',
    "scontrol": 'echo "$@" >> "$STATE/scontrol"',
}
"""Name -> what stands in for the command, in sh."""


def write_commands(folder: Path, commands: dict[str, str]) -> dict[str, str]:
    """Write commands into a folder; return an environment in which they are found first."""
    (folder / "bin").mkdir()
    for name, text in commands.items():
        path = folder / "bin" / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
    (folder / "job").write_text("RUNNING\n")
    return environment(
        PATH=f"{folder / 'bin'}:{os.environ['PATH']}",
        STATE=str(folder),
        SLURM_JOB_ID="7",
        SLURM_CPUS_PER_TASK="2",
        SLURM_JOB_NUM_NODES="2",
    )


def start(script: list, **options) -> subprocess.Popen:
    return subprocess.Popen(
        ["bash", *script], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options
    )


def wait_for(process: subprocess.Popen, run: Path, lines: int) -> None:
    while process.poll() is None and (
        not (run / "journal.jsonl").exists() or len(rows_of(run)) < lines
    ):
        time.sleep(0.01)


def signal_group(folder: Path) -> None:
    """Send SIGTERM to all that srun started, as Slurm does."""
    os.killpg(int((folder / "group").read_text()), signal.SIGTERM)


def cloud_script(folder: Path) -> list:
    """Write the `run` part of the cloud's task, with folders in place of bucket and disk."""
    (folder / "saved").mkdir()
    script = yaml.safe_load((EXAMPLES / "skypilot.yaml").read_text())["run"]
    path = folder / "run.sh"
    assert "saved=/saved/" in script
    assert "run=~/runs/" in script
    path.write_text(
        script.replace("/saved/", f"{folder}/saved/").replace("~/runs/", f"{folder}/runs/")
    )
    return [path]


def test_a_search_goes_on_from_job_to_job(tmp_path):
    """One search, begun by a job of Slurm and finished in the cloud."""
    given = write_commands(tmp_path, COMMANDS)
    with forked_program(tmp_path / "bin" / "evomerge", "--trust-code"):  # of the test's module
        goes_on(given, tmp_path)


def goes_on(given: dict[str, str], tmp_path: Path) -> None:
    """Run a search by one job after the other, with the commands of an environment."""
    file, run = write_judged(tmp_path, SOURCE), tmp_path / "runs" / "mine"
    given |= {
        "PYTHONPATH": f"{tmp_path}:{os.environ.get('PYTHONPATH', '')}",
        "PAUSE": "0.3",
        "SEARCH": str(file),
        "RUN": str(run),
        "NAME": "mine",
    }
    job = start([EXAMPLES / "slurm.sbatch"], env=given)
    wait_for(job, run, lines=8)
    signal_group(tmp_path)
    said, _ = job.communicate(timeout=250)
    assert job.returncode == 143, said
    assert "terminated; nothing is lost" in " ".join(said.split())
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    assert (tmp_path / "started").read_text() == f"evomerge search {file} --run {run} --resume\n"

    script = cloud_script(tmp_path)
    kept = tmp_path / "saved" / "mine.1.tgz"
    subprocess.run(["tar", "-C", run, "-czf", kept, "."], check=True)
    os.utime(kept, (1.0, 1.0))
    cut_off = kept.read_bytes()[: kept.stat().st_size // 2]
    (tmp_path / "saved" / "mine.2.tgz").write_bytes(cut_off)  # newer, of a machine that was lost
    before = rows_of(run)
    run.rename(tmp_path / "gone")
    done = start(script, env=given | {"PAUSE": "0", "SECONDS_BETWEEN_COPIES": "1"})
    said, _ = done.communicate(timeout=250)
    assert done.returncode == 0, said
    assert rows_of(run)[: len(before)] == before
    kept = saved_journal(tmp_path).splitlines()
    assert kept == rows_of(run)
    assert any(b'"winner"' in row for row in kept)


def saved_journal(folder: Path) -> bytes:
    """Return the journal in the latest copy of the run folder."""
    copy = max((folder / "saved").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    command = ["tar", "-xzOf", copy, "./journal.jsonl"]
    return subprocess.run(command, capture_output=True, check=True).stdout


def test_two_searches_one_after_the_other_can_be_called_again(tmp_path):
    few = ["--set", "budget.candidates=5"]
    for split, count in {"search": 8, "validation": 4, "test": 4}.items():
        few += ["--set", f"evaluation.{split}.documents={count}"]
    given = write_commands(tmp_path, {}) | {"RUNS": str(tmp_path)}
    script = [EXAMPLES / "weights-then-path.sh", *few]
    for _ in range(2):
        with forked_program(tmp_path / "bin" / "evomerge"):
            called = start(script, env=given, cwd=EXAMPLES.parent)
            said, _ = called.communicate(timeout=900)
        assert called.returncode == 0, said
        journals = [rows_of(tmp_path / name) for name in ("weights", "path")]
    assert [sum(b'"tell"' in row for row in rows) for rows in journals] == [5, 5]
    found = yaml.safe_load((tmp_path / "path" / "search.yaml").read_text())["parents"]
    assert found == [str(tmp_path / "merge"), "zoo:maths"]


ENDING = 'mkdir -p "$RUN"; echo "$1 $5" >> "$RUN/journal.jsonl"; exit "$CODE"'
"""In place of evomerge: writes two of its arguments into the journal and ends with a code."""


SCRIPTS = ["slurm.sbatch", "slurm-ray.sbatch"]


ENDS = [(143, "RUNNING", True), (143, "CANCELLED", False), (1, "RUNNING", False)]


@pytest.mark.parametrize("name", SCRIPTS)
@pytest.mark.parametrize(("code", "state", "again"), ENDS)
def test_only_a_running_job_that_was_terminated_is_requeued(tmp_path, name, code, state, again):
    run = tmp_path / "run"
    given = write_commands(tmp_path, COMMANDS | {"evomerge": ENDING})
    (tmp_path / "job").write_text(f"{state}\n")
    job = start([EXAMPLES / name], env=given | {"RUN": str(run), "CODE": str(code)})
    assert job.wait(timeout=250) == code
    assert rows_of(run) == [b"search --resume"]
    assert (tmp_path / "scontrol").exists() == again


GROWING = """
trap 'echo ended >> "$RUN/journal.jsonl"; exit 143' TERM
mkdir -p "$RUN"; echo begun >> "$RUN/journal.jsonl"
for _ in $(seq 10000); do sleep 0.05; done
"""
"""In place of evomerge: runs until SIGTERM, and then still writes to the journal."""


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_search_that_is_terminated_with_its_node_ends_in_order(tmp_path, name):
    run = tmp_path / "run"
    given = write_commands(tmp_path, COMMANDS | {"evomerge": GROWING}) | {"RUN": str(run)}
    job = start([EXAMPLES / name], env=given)
    wait_for(job, run, lines=1)
    signal_group(tmp_path)
    assert job.wait(timeout=250) == 143
    assert rows_of(run) == [b"begun", b"ended"]
    assert (tmp_path / "scontrol").read_text() == "requeue 7\n"
    if "ray" in name:
        assert (tmp_path / "ray").read_text().splitlines() == [
            *("symmetric-run", "--address", f"{socket.gethostname()}:6379"),
            *("--min-nodes", "2", "--num-cpus=2"),
        ]


PROGRAM = """#!{python} -SEs
import json, os, signal, socket, sys

connection = socket.socket(socket.AF_UNIX)
connection.connect({address!r})
socket.send_fds(connection, [b"!"], [1, 2])
about = {{"arguments": sys.argv[1:], "cwd": os.getcwd(), "environment": dict(os.environ)}}
connection.sendall(json.dumps(about).encode())
connection.shutdown(socket.SHUT_WR)
answers = connection.makefile()
process = int(answers.readline())
for name in (signal.SIGINT, signal.SIGTERM):
    signal.signal(name, lambda number, _: os.kill(process, number))
code = int(answers.readline())
sys.exit(code if code >= 0 else 128 - code)
"""


@contextmanager
def forked_program(path: Path, *more: str) -> Iterator[None]:
    """Write an `evomerge` for scripts, which forks the command as `search_run` does.

    It hands its arguments, environment and open files to the test, passes signals on, and ends as
    the command ends. While the context is open it runs, with `more` after its arguments.
    """
    with tempfile.TemporaryDirectory() as folder, socket.socket(socket.AF_UNIX) as listening:
        address = f"{folder}/s"  # the path of a test is too long for one
        listening.bind(address)
        listening.listen()
        path.write_text(PROGRAM.format(python=sys.executable, address=address))
        path.chmod(0o755)
        threading.Thread(target=_serve, args=(listening, more), daemon=True).start()
        try:
            yield
        finally:
            listening.shutdown(socket.SHUT_RDWR)


def _serve(listening: socket.socket, more: tuple[str, ...]) -> None:
    while True:
        try:
            connection, _ = listening.accept()
        except OSError:  # it was shut down
            return
        threading.Thread(target=_answer, args=(connection, more), daemon=True).start()


def _answer(connection: socket.socket, more: tuple[str, ...]) -> None:
    with connection:
        _, opened, _, _ = socket.recv_fds(connection, 1, 2)
        about = json.load(connection.makefile())
        stdout, stderr = (os.fdopen(number, "wb") for number in opened)
        with stdout, stderr:
            before, now = environment(), about["environment"]
            changed = {name: value for name, value in now.items() if before.get(name) != value}
            files = {"stdout": stdout, "stderr": stderr, "cwd": Path(about["cwd"])}
            command = start_command(*about["arguments"], *more, **files, **changed)
        connection.sendall(f"{command.pid}\n".encode())
        connection.sendall(f"{command.wait()}\n".encode())
