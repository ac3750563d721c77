"""The job files of the examples really run a search, end in order, and go on where they were.

Small scripts stand in for the commands of Slurm and Ray; evomerge and the search are real.
"""

import os
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import yaml
from search_run import environment, rows_of, write_judged

from evomerge.config.schema import parse, read

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

REAL = f'exec {sys.executable} -m evomerge "$@" --trust-code'


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
    given = write_commands(tmp_path, COMMANDS | {"evomerge": REAL})
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


RECORDING = """printf '%s\\0' "$@" >> "$STATE/asked"; printf '\\1' >> "$STATE/asked"
[ "$1" != export ] || mkdir "$4"
"""
"""In place of evomerge: notes its arguments."""


def test_two_searches_one_after_the_other_can_be_called_again(tmp_path):
    given = write_commands(tmp_path, {"evomerge": RECORDING}) | {"RUNS": str(tmp_path)}
    for _ in range(2):
        called = start([EXAMPLES / "weights-then-path.sh"], env=given, cwd=EXAMPLES.parent)
        assert called.wait(timeout=250) == 0
    asked = [call.split("\0")[:-1] for call in (tmp_path / "asked").read_text().split("\1")[:-1]]
    assert [words[0] for words in asked] == ["search", "export", *["search"] * 3]
    for words in (words for words in asked if words[0] == "search"):
        sets = [word for before, word in pairwise(words) if before == "--set"]
        assert parse(read(EXAMPLES.parent / words[1], sets), words[1])
        assert "--resume" in words


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
