"""The examples are what a person can use: search files are valid, job files have known options."""

import re
import subprocess
from pathlib import Path

import pytest

from evomerge.config.schema import load
from evomerge.problem.preflight import warnings
from evomerge.problem.runs import prepare
from evomerge.problem.search_file import load_any

EXAMPLES = Path(__file__).parents[2] / "examples"

STANDING_IN = [
    "parents=[zoo:language, zoo:maths]",
    "base=zoo:base",
    "dtype=float32",
    "objectives=[{task: zoo_l2_maths, metric: exact_match}]",
    "evaluation.include=[zoo:tasks]",
    "space.groups=6",
]
"""What stands in for models and tasks that would have to be downloaded: models of 6 layers."""

SBATCH = {
    "job-name", "nodes", "ntasks", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "mem",
    "exclusive", "time", "requeue", "signal", "output", "open-mode",
}  # fmt: skip
"""Options of sbatch (Slurm 24.11) that the examples may use."""


@pytest.mark.parametrize("name", ["one-gpu.yaml", "eight-gpus.yaml"])
def test_a_search_file_is_valid_apart_from_its_models_and_tasks(name):
    problem = prepare(load(EXAMPLES / name, STANDING_IN), EXAMPLES)
    assert warnings(problem, allow_benchmarks=False) == []


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.sbatch")), ids=lambda path: path.name)
def test_a_job_script_is_bash_with_options_that_sbatch_knows(path):
    subprocess.run(["bash", "-n", path], check=True)
    text = path.read_text()
    assert text.startswith("#!/bin/bash\n")
    lines = text.splitlines()
    options = [number for number, line in enumerate(lines) if line.startswith("#SBATCH")]
    first = next(n for n, line in enumerate(lines) if line and not line.startswith("#"))
    assert max(options) < first  # sbatch reads no options after the first command
    found = dict(
        re.fullmatch(r"#SBATCH --([a-z-]+)(?:=(\S+))?", lines[n]).groups() for n in options
    )
    assert set(found) <= SBATCH
    assert found["requeue"] is None
    assert found["signal"] == "TERM@120"  # without B:, so what srun started gets it
    assert found["open-mode"] == "append"
    named = re.search(r"^search=\$\{SEARCH:-(\S+)\}", text, re.MULTILINE)
    assert (EXAMPLES.parent / named[1]).is_file()


CONFIGS = sorted((EXAMPLES.parent / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_ready_search_file_has_no_mistake_that_is_seen_before_a_model_is_opened(path):
    assert load_any(path).objectives
