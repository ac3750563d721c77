"""What `evomerge validate` says: memory, against a search that runs, and warnings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from search_run import environment, evomerge_json, write_search

from evomerge.config.schema import load, parse
from evomerge.errors import ConfigError
from evomerge.setup import memory
from evomerge.setup.memory import check_fit
from evomerge.setup.preflight import warnings
from evomerge.setup.runs import prepare
from evomerge.setup.workers import resolve_order

pytestmark = pytest.mark.thorough

RUN = """
from pathlib import Path
from evomerge.__main__ import main
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def size(text: str) -> float:
    number, unit = text.split()
    return float(number) * {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9}[unit]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("optimizer", [{}, {"name": "gradient", "steps": 10}])
def test_the_memory_of_a_search_is_what_validate_says(optimizer, tmp_path):
    order = {"order": "generation"}
    data = {"optimizer": optimizer, "budget": {"candidates": 5}, "executor": order}
    file = write_search(tmp_path, **data)
    said = {name: size(text) for name, text in evomerge_json("validate", file)["memory"].items()}
    parts = sum(value for name, value in said.items() if name != "together")
    assert abs(said["together"] - parts) < 0.01 * parts
    done = subprocess.run(
        [sys.executable, "-c", RUN, "search", str(file), "--run", str(tmp_path / "run")],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert done.returncode == 0, done.stderr
    peak = 1024 * int(done.stdout.splitlines()[-1])
    assert 0.7 < peak / said["together"] < 1.4


def test_what_does_not_fit_on_an_accelerator_is_refused(tmp_path, monkeypatch):
    file = write_search(tmp_path)
    problem = prepare(load(file), tmp_path)
    two = load(file, ["executor.kind=processes", "executor.workers=2"])
    monkeypatch.setattr(memory, "choose_device", lambda wanted: "cuda")
    monkeypatch.setattr(memory, "device_memory", lambda device: 80_000_000)
    host = problem.checkpoints[problem.host]
    check_fit(problem.config, host)
    monkeypatch.setattr(memory, "device_memory", lambda device: 3_000_000)
    with pytest.raises(
        ConfigError, match=r"the weights, 2.75 MB in float32, do not fit .* of 3 MB"
    ):
        check_fit(problem.config, host)
    check_fit(load(file, ["evaluation.device_map=auto"]), host)
    monkeypatch.setattr(memory, "device_memory", lambda device: 7_500_000)
    check_fit(two, host)
    three = load(file, ["executor.kind=processes", "executor.workers=3"])
    with pytest.raises(
        ConfigError, match=r"the weights of 3 workers, 8.24 MB .* lower `executor.workers`"
    ):
        check_fit(three, host)
    with pytest.raises(ConfigError, match=r"on an accelerator of 7.5 MB beside a vLLM engine"):
        check_fit(load(file, ["evaluation.backend=vllm"]), host)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    file = write_search(tmp_path_factory.mktemp("search"))
    return prepare(load(file), file.parent)


@pytest.mark.parametrize(
    ("optimizer", "executor", "words"),
    [
        ("cma", {"workers": 16, "order": "arrival"}, []),
        (
            "cma",
            {"workers": 17, "order": "arrival"},
            ["17 workers 'cma'", "16 others", "generation"],
        ),
        ("cma", {"workers": 64}, []),
        (
            "discrete-lengler",
            {"workers": 16},
            ["16 workers 'discrete-lengler'", "15 others", "cma"],
        ),
        ("discrete-lengler", {"workers": 1}, []),
        ("random", {"workers": 64}, []),
    ],
)
def test_a_lag_that_an_optimizer_does_not_take_is_warned_of(problem, optimizer, executor, words):
    plain = problem.config.model_dump(mode="json")
    plain["optimizer"] |= {"name": optimizer}
    plain["executor"] |= {"kind": "processes", "order": "auto"} | executor
    config = resolve_order(parse(plain, "search.yaml"), 10 if optimizer == "cma" else 1)
    found = warnings(replace(problem, config=config), allow_benchmarks=True)
    assert len(found) == bool(words)
    assert all(word in note for note in found for word in words)
