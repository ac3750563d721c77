"""The five ways of the data (CONTRIBUTING.md): how many files of the package each passes.

A tracer notes the functions that run, after warm-up, from one point of a search to another. What
runs for tensors and for documents counts in their own ways.
"""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import yaml
from search_run import SMALL

import evomerge
from evomerge.merging.tensors.make import TensorMaker
from evomerge.merging.tensors.plan import TensorPlan
from evomerge.run.journal import Journal
from evomerge.searching.loop import Search
from evomerge.strategy.gradient.descent import Descent

HOME = Path(evomerge.__file__).parent
MOST = {"file": 13, "genome": 17, "tensor": 11, "document": 10, "gradient": 7}

BASELINES, GENERATION = 3, 4
CANDIDATES = BASELINES + GENERATION + 1
"""The last candidate is asked for alone, after a generation."""


def opens(file: str, function: str) -> str | None:
    """Return the way that a function opens: what it calls counts there."""
    of_tensors = ("merging/methods/", "merging/kernels/", "merging/tensors/")
    if file.startswith(of_tensors) or function.startswith("Resident."):
        return "tensor"
    if file.startswith("evaluation/") and file != "evaluation/loss.py":
        return "document"
    return None


class Tracer:
    """Notes the files whose functions run while it is `on`: way -> file -> functions."""

    def __init__(self) -> None:
        self.on = False
        self.passed: dict[str, dict[str, set[str]]] = {}
        self._open = threading.local()

    def note(self, frame: FrameType, event: str, argument: object) -> None:
        path = frame.f_code.co_filename
        if (
            not self.on
            or event not in ("call", "return")
            or not path
            or not path.startswith(f"{HOME}/")
        ):
            return
        file, function = path[len(f"{HOME}/") :], frame.f_code.co_qualname
        way, door = getattr(self._open, "way", None), getattr(self._open, "door", None)
        if event == "return":
            if door == id(frame):
                self._open.way = self._open.door = None
            return
        if way is None and (way := opens(file, function)) is not None:
            self._open.way, self._open.door = way, id(frame)
        # Threads are those of merges.
        main = threading.current_thread() is threading.main_thread()
        way = way or ("genome" if main else "tensor")
        self.passed.setdefault(way, {}).setdefault(file, set()).add(function)


@contextmanager
def traced(tracer: Tracer) -> Iterator[None]:
    before = sys.getprofile(), threading.getprofile()
    threading.setprofile(tracer.note)
    sys.setprofile(tracer.note)
    try:
        yield
    finally:
        sys.setprofile(before[0])
        threading.setprofile(before[1])


def search_all_kinds(folder: Path, **changes: Any) -> None:
    few = {split: {"documents": 6} for split in ("search", "validation", "test")}
    config = {
        **SMALL,
        "evaluation": {"include": ["zoo:tasks"], **few},
        "optimizer": {"name": "cma", "population": GENERATION},
        "space": {"kind": "parameters", "method": "ties", "embeddings": True},
        "budget": {"candidates": CANDIDATES},
        **changes,
    }
    evomerge.search(config, folder / "run", progress=False)


def last_candidate(monkeypatch: pytest.MonkeyPatch, tracer: Tracer) -> None:
    """Have a tracer note the last candidate, from the question for it to its journal line."""
    ask, append, asked = Search.ask, Journal.append, []

    def asks(self: Search, *arguments: Any) -> Any:
        asked.append(self)
        tracer.on = len(asked) == CANDIDATES - BASELINES
        return ask(self, *arguments)

    def appends(self: Journal, event: Any, *arguments: Any) -> Any:
        line = append(self, event, *arguments)
        tracer.on = tracer.on and event["event"] != "tell"
        return line

    monkeypatch.setattr(Search, "ask", asks)
    monkeypatch.setattr(Journal, "append", appends)


def is_short(tracer: Tracer, way: str, most: str = "") -> None:
    files = tracer.passed[way]
    assert 1 < len(files) <= MOST[most or way], "\n".join(sorted(files))
    told = (HOME.parent / "CONTRIBUTING.md").read_text()
    vary = ("merging/methods/", "merging/kernels/")  # with the method
    named = [file for file in files if way != "tensor" or not file.startswith(vary)]
    assert not [file for file in named if f"`{file}" not in told]


def test_a_search_file_passes_few_files_to_a_session(monkeypatch, tmp_path):
    """Of the rooms that join others; what they ask of kinds, parents and tasks is not counted."""
    tracer, run = Tracer(), Search.run

    def runs(self: Search) -> Any:
        tracer.on = False
        return run(self)

    monkeypatch.setattr(Search, "run", runs)
    with traced(tracer):
        tracer.on = True
        search_all_kinds(tmp_path)
    rooms = ("api/", "problem/", "searching/")
    files = {file for file in tracer.passed["genome"] if file.startswith(rooms)}
    assert 10 < len(files) <= MOST["file"], "\n".join(sorted(files))
    read = (HOME.parent / "CONTRIBUTING.md").read_text()
    assert not [file for file in files if f"`{file}`" not in read]


METHODS = ["linear", "ties", "dare_ties", "tsv"]


SCORED = ["zoo_l2_maths exact_match", "zoo_l2_maths_mc acc"]


@pytest.mark.parametrize(("method", "task"), zip([*METHODS, "slerp"], cycle(SCORED), strict=False))
def test_a_genome_a_tensor_in_memory_and_a_document_pass_few_files(
    method, task, monkeypatch, tmp_path
):
    tracer, (name, metric) = Tracer(), task.split()
    last_candidate(monkeypatch, tracer)
    space = {"kind": "parameters", "method": method, "embeddings": method != "slerp"}
    with traced(tracer):
        search_all_kinds(tmp_path, space=space, objectives=[{"task": name, "metric": metric}])
    is_short(tracer, "tensor")
    is_short(tracer, "genome")
    is_short(tracer, "document")


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_passes_few_files_to_the_disk(method, monkeypatch, tmp_path):
    tracer, make = Tracer(), TensorMaker.make

    def used(self: TensorMaker, plans: Any, out: Any, use: Any, threads: int) -> None:
        def following(plan: TensorPlan, tensor: Any) -> None:
            use(plan, tensor)
            tracer.on = True  # from the end of the first tensor on

        make(self, plans, out, following, threads)
        tracer.on = False

    parents = [{"model": it, "parameters": {"weight": 0.5}} for it in ("zoo:language", "zoo:maths")]
    merge = {"merge_method": method, "models": parents}
    merge |= {} if method == "linear" else {"base_model": "zoo:base"}
    (tmp_path / "merge.yaml").write_text(yaml.safe_dump({**merge, "dtype": "float32"}))
    monkeypatch.setattr(TensorMaker, "make", used)
    with traced(tracer):
        evomerge.merge(tmp_path / "merge.yaml", tmp_path / "merged")
    files = {file for passed in tracer.passed.values() for file in passed}
    assert "merging/writer.py" in files
    assert len(files) <= MOST["tensor"], "\n".join(sorted(files))


def test_a_step_of_a_descent_passes_few_files(monkeypatch, tmp_path):
    tracer, step, steps = Tracer(), Descent.step, []

    def counted(self: Descent, *arguments: Any, **settings: Any) -> Descent:
        following = step(self, *arguments, **settings)
        steps.append(self)
        tracer.on = len(steps) == 3  # from the end of one step to the end of the next
        return following

    monkeypatch.setattr(Descent, "step", counted)
    with traced(tracer):
        search_all_kinds(tmp_path, optimizer={"name": "gradient"}, budget={"candidates": 4})
    is_short(tracer, "genome", "gradient")


def test_no_file_is_long():
    lines = {path: path.read_text().count("\n") for path in HOME.rglob("*.py")}
    assert not {path: number for path, number in lines.items() if number > 350}
