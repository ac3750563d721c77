"""What `evomerge validate` says: memory, against a search that runs, the backend, and warnings."""

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from search_run import SMALL, environment, evomerge_json, problem_of, search_over, write_search
from tiny import PLAIN, copy_of, make

from evomerge.config.schema import load
from evomerge.errors import CheckpointError, ConfigError
from evomerge.problem import memory
from evomerge.problem.memory import check_fit, fit_warnings, memory_rows
from evomerge.problem.preflight import warnings
from evomerge.problem.runs import prepare

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
def test_the_memory_of_a_search_is_what_validate_says(tmp_path):
    """By gradients, which take most; nearly all is of the libraries, so one kind is enough."""
    optimizer = {"name": "gradient", "steps": 10}
    file = write_search(tmp_path, optimizer=optimizer, budget={"candidates": 5})
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


@pytest.fixture
def gpu(monkeypatch):
    """Let a search see one GPU, and set its memory in bytes."""

    def with_memory(size):
        monkeypatch.setattr(memory, "choose_device", lambda wanted: "cuda")
        monkeypatch.setattr(memory, "device_memory", lambda device: size)

    return with_memory


@pytest.fixture(scope="module")
def problem_with(tmp_path_factory):
    """The problem of a search file, with some changes of its keys."""
    file = write_search(tmp_path_factory.mktemp("search"))
    whole = prepare(load(file), file.parent)

    def changed(*changes):
        return replace(whole, config=load(file, list(changes))) if changes else whole

    return changed


PROCESSES = "executor.kind=processes"


def test_what_does_not_fit_on_an_accelerator_is_refused(problem_with, gpu):
    gpu(80_000_000)
    check_fit(problem_with())
    gpu(3_000_000)
    check_fit(problem_with("evaluation.device_map=auto"))
    weights = r"the merged weights, 2.75 MB in float32, do not fit .* of 3 MB"
    with pytest.raises(ConfigError, match=weights):
        check_fit(problem_with())
    gpu(7_500_000)
    check_fit(problem_with(PROCESSES, "executor.workers=2"))
    with pytest.raises(ConfigError, match=r"weights, 8.24 MB .* lower `executor.workers`"):
        check_fit(problem_with(PROCESSES, "executor.workers=3"))
    with pytest.raises(ConfigError, match=r"on an accelerator of 7.5 MB beside a vLLM engine"):
        check_fit(problem_with("evaluation.backend=vllm"))


def test_what_no_memory_of_this_machine_holds_is_refused(problem_with):
    """Mapped files need not fit, and the libraries are shared by processes on Linux."""
    with pytest.raises(ConfigError, match=r"TB of memory \(.* lower `executor.workers`") as caught:
        check_fit(problem_with(PROCESSES, "executor.workers=4096"))
    assert "(libraries 1.0" in str(caught.value) or sys.platform != "linux"


def test_memory_that_is_free_only_in_part_is_warned_of(problem_with, monkeypatch):
    rows = memory_rows(problem_with())
    assert rows["mapped_files"] == "8.24 MB of parents, which need not fit"
    monkeypatch.setattr(memory, "free_memory", lambda: 10**11)
    assert not list(fit_warnings(problem_with()))
    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=0))
    monkeypatch.setattr(memory, "free_memory", lambda: 200_000_000)
    monkeypatch.setattr(memory, "is_built_for_gpu", lambda: False)
    monkeypatch.setattr(memory.psutil, "Process", lambda: process)
    (note,) = fit_warnings(problem_with())
    assert "about 8" in note and "and 200 MB are free now" in note


def test_hopeless_searches_are_warned_of_with_figure_and_fix(tmp_path):
    each = {split: {"documents": 97} for split in ("search", "validation", "test")}
    file = write_search(tmp_path, evaluation={"include": ["zoo:tasks"], **each})

    def told(*changes):
        return warnings(prepare(load(file, list(changes)), tmp_path), allow_benchmarks=True)

    assert not told()
    assert told("evaluation.search.documents=3") == [
        "a score of 'zoo_l2_maths' is known to ±57 points on 3 search documents (95 % interval of "
        "50 % right answers); take 100 documents or more in each split, which give ±10."
    ]
    (note,) = told("budget.candidates=10")
    assert "7 candidates for 8 genes are 0.7 of its generations of 10" in note
    assert "budget.candidates to 67" in note and "`optimizer.name: gradient`" in note
    sampled = "space={method: ties, groups: 4, knobs: {weight: 1.0, density: [0.1, 1.0]}}"
    (note,) = told("budget.candidates=10", sampled)
    assert "learns little" in note and "gradient" not in note
    (note,) = told("budget.candidates=5", "optimizer.name=random")
    assert "is 5, but the 3 baselines (parents and averages" in note and "so 2 are searched" in note
    assert not told("budget.candidates=5", "optimizer.name=gradient")
    for count in (4, 15):
        (note,) = told(f"budget.candidates={count}", "optimizer.name=gp")
        assert f"only {count - 3} are searched beside the 3 baselines; set budget.cand" in note
        assert "to 39 or so" in note
    assert not told("budget.candidates=16", "optimizer.name=gp")


def test_a_chat_template_that_no_key_names_is_told(tmp_path):
    parents = [copy_of(name, tmp_path / name, PLAIN) for name in ("language", "maths", "base")]
    data = search_over(parents[:2], parents[2])
    said = "base has a chat template, but prompts are made without it; set `evaluation.chat_te"
    for key, count in (({"chat_template": True}, 0), ({"chat_template": False}, 0), ({}, 1)):
        data["evaluation"] = {**SMALL["evaluation"], **key}
        assert sum(said in note for note in warnings(problem_of(data), True)) == count


TEXTS = {"task": "zoo_maths", "metric": "exact_match"}
VLLM = {**SMALL["evaluation"], "backend": "vllm"}
STACKED = {"kind": "dataflow", "scales": 1.0}


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """Check a search where a vLLM is installed, as far as `validate` looks."""
    monkeypatch.setattr("evomerge.evaluation.inference.vllm_kind.version", lambda name: "0.33.0")

    def with_(**changes):
        file = write_search(tmp_path, **{"evaluation": VLLM, "objectives": [TEXTS]} | changes)
        return prepare(load(file), file.parent)

    return with_


def test_layers_that_an_engine_fixes_by_position_must_stay_where_they_are(tmp_path, checked):
    """Gemma 2 alternates two kinds of attention."""
    parents = [str(make(tmp_path / name, "gemma2", seed=seed)) for seed, name in enumerate("ab")]
    with pytest.raises(CheckpointError, match=r"backend` is 'vllm'.* differ in layer_types"):
        checked(base=None, parents=parents, space={**STACKED, "layers": [3, 3]})
    checked(base=None, parents=parents, space={**STACKED, "variant": "swaps"})
