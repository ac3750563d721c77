"""What `evomerge validate` says: memory, against a search that runs, and warnings."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from search_run import environment, evomerge, evomerge_json, write_search

from evomerge.config.schema import load, parse
from evomerge.errors import ConfigError
from evomerge.setup import memory, prospects
from evomerge.setup.memory import check_fit, fit_warnings, memory_rows
from evomerge.setup.preflight import warnings
from evomerge.setup.prospects import prospect_warnings
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


def changed(problem, file, *changes):
    return replace(problem, config=load(file, list(changes)))


def test_what_does_not_fit_on_an_accelerator_is_refused(tmp_path, gpu):
    file = write_search(tmp_path)
    problem = prepare(load(file), tmp_path)
    gpu(80_000_000)
    check_fit(problem)
    gpu(3_000_000)
    with pytest.raises(
        ConfigError, match=r"the merged weights, 2.75 MB in float32, do not fit .* of 3 MB"
    ):
        check_fit(problem)
    check_fit(changed(problem, file, "evaluation.device_map=auto"))
    gpu(7_500_000)
    check_fit(changed(problem, file, "executor.kind=processes", "executor.workers=2"))
    with pytest.raises(ConfigError, match=r"weights, 8.24 MB .* lower `executor.workers`"):
        check_fit(changed(problem, file, "executor.kind=processes", "executor.workers=3"))
    with pytest.raises(ConfigError, match=r"on an accelerator of 7.5 MB beside a vLLM engine"):
        check_fit(changed(problem, file, "evaluation.backend=vllm"))


def test_a_machine_with_another_gpu_can_be_planned_for(tmp_path):
    file = write_search(tmp_path)
    with pytest.raises(ConfigError, match=r"do not fit on an accelerator of 3 MB"):
        prepare(load(file), tmp_path, gpu_memory=3_000_000)
    problem = prepare(load(file), tmp_path, gpu_memory=3_200_000)
    assert "take 2.75 MB of the accelerator's 3.2 MB" in "".join(fit_warnings(problem))
    rows = memory_rows(problem)
    assert rows["device"] == {"cuda": "3.2 MB", "weights": "2.75 MB", "together": "2.75 MB"}
    assert "weights" not in rows["memory"] and "free_memory" not in rows
    assert not list(fit_warnings(replace(problem, gpu_memory=24 * 10**9)))


def test_what_no_memory_of_this_machine_holds_is_refused_by_validate_and_search(tmp_path):
    """Mapped files need not fit, and the libraries are shared by processes on Linux."""
    file = write_search(tmp_path, executor={"kind": "processes", "workers": 4096})
    for command in (["validate"], ["search", "--run", tmp_path / "run"]):
        said = evomerge(*command, file, code=2).stderr
        assert "TB of memory (libraries 1.0" in said or sys.platform != "linux"
        assert "lower `executor.workers`" in said
    assert not (tmp_path / "run").exists()


def test_memory_that_is_free_only_in_part_is_warned_of(problem, monkeypatch):
    rows = memory_rows(problem)
    assert rows["mapped_files"] == "8.24 MB of parents, which need not fit"
    assert rows["device"] == "cpu" or isinstance(rows["device"], dict)
    monkeypatch.setattr(memory, "free_memory", lambda: 10**11)
    assert not list(fit_warnings(problem))
    monkeypatch.setattr(memory, "free_memory", lambda: 200_000_000)
    monkeypatch.setattr(memory, "is_built_for_gpu", lambda: False)
    monkeypatch.setattr(memory.psutil, "Process", lambda: SimpleNamespace(memory_info=no_memory))
    (note,) = fit_warnings(problem)
    assert "about 8" in note and "and 200 MB are free now" in note


def no_memory():
    return SimpleNamespace(rss=0)


def test_hopeless_searches_are_warned_of_with_figure_and_fix(tmp_path):
    three = ("evaluation.search.documents=3", "evaluation.racing.enabled=false")
    each = {split: {"documents": 97} for split in ("search", "validation", "test")}
    file = write_search(tmp_path, evaluation={"include": ["zoo:tasks"], **each})
    assert not list(prospect_warnings(prepare(load(file), tmp_path)))
    (note,) = prospect_warnings(prepare(load(file, [*three]), tmp_path))
    assert note == (
        "a score of 'zoo_l2_maths' is known to ±57 points on 3 search documents (95 % interval of "
        "50 % right answers); there are enough for 100 in each split (±10)."
    )
    (note,) = prospect_warnings(prepare(load(file, ["budget.candidates=10"]), tmp_path))
    assert "7 candidates for 8 genes are 0.7 of its generations of 10" in note
    assert "budget.candidates to 67" in note and "`optimizer.name: gradient`" in note
    sampled = "space={method: ties, groups: 4, knobs: {weight: 1.0, density: [0.1, 1.0]}}"
    (note,) = prospect_warnings(prepare(load(file, ["budget.candidates=10", sampled]), tmp_path))
    assert "learns little" in note and "gradient" not in note
    few = ["budget.candidates=5", "optimizer.name=random"]
    (note,) = prospect_warnings(prepare(load(file, few), tmp_path))
    assert "is 5, of which 3 are baselines" in note and "only 2 are searched" in note
    few = ["budget.candidates=5", "optimizer.name=gradient"]
    assert not list(prospect_warnings(prepare(load(file, few), tmp_path)))


def test_float16_on_a_cpu_is_warned_of(problem, monkeypatch):
    half = replace(problem, config=problem.config.model_copy(update={"dtype": "float16"}))
    monkeypatch.setattr(prospects, "choose_device", lambda wanted: "cpu")
    _, note = prospect_warnings(half)
    assert "dtype is float16" in note and "set it to float32" in note
    (few,) = prospect_warnings(problem)
    assert "known to ±20 points on 24 search documents" in few
    monkeypatch.setattr(prospects, "choose_device", lambda wanted: "cuda")
    assert list(prospect_warnings(half)) == [few]


def test_minutes_for_a_candidate_on_a_cpu_are_warned_of(problem, monkeypatch):
    monkeypatch.setattr(prospects, "_A_SECOND", 5e10 / 10_000)  # as if the model were larger
    monkeypatch.setattr(prospects, "choose_device", lambda wanted: "cpu")
    monkeypatch.setattr(prospects, "count_cores", lambda: 2)
    few, note = prospect_warnings(problem)
    assert "weights on 24 search documents) may well take 4 minutes on 2 CPU cores" in note
    assert list(prospect_warnings(replace(problem, gpu_memory=24 * 10**9))) == [few]


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
    notes = warnings(replace(problem, config=config), allow_benchmarks=True)
    found = [note for note in notes if note.startswith("executor.order")]
    assert len(found) == bool(words)
    assert all(word in note for note in found for word in words)
