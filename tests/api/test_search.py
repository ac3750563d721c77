"""Searches from Python: with a function as objective, interrupted and continued, exported."""

import copy
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from safetensors.torch import load_file
from search_run import SMALL, environment, evomerge, write_search

from evomerge.api.models import evaluate, merge
from evomerge.api.run import Run
from evomerge.api.search import resume, search, with_named_functions
from evomerge.errors import ConfigError, RunFolderError
from evomerge.evaluation.tasks.functions import find
from evomerge.run.history import History
from evomerge.run.journal import Event

pytestmark = pytest.mark.thorough


def size(model, tokenizer, documents):
    return [float(next(model.parameters()).detach().abs().mean())] * len(documents)


size.documents = 30

SCRIPT = '''
import sys
import evomerge

def size(model, tokenizer, documents):
    """Mean size of the first weights."""
    return [float(next(model.parameters()).detach().abs().mean())] * len(documents)

size.documents = 30

CONFIG = {
    "parents": ["zoo:language", "zoo:maths"],
    "base": "zoo:base",
    "space": {"method": "task_arithmetic", "knobs": {"weight": [0.0, 2.0]}},
    "objectives": [size],
    "evaluation": {"search": {"documents": 10}, "validation": {"documents": 5},
                   "test": {"documents": 10}},
    "budget": {"candidates": 6},
}

run = evomerge.search(CONFIG, run=sys.argv[1])
assert len(run.candidates) == 6, run.candidates
assert list(run.genes(5)) == [name for name in run.record.genes]
run = evomerge.resume(run, candidates=8)
assert len(evomerge.Run(sys.argv[1]).candidates) == 8
print(7, run.recipe(7).digest)
'''


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess]:
    """A run by a script with a function of its own, and what the script printed."""
    folder = tmp_path_factory.mktemp("script")
    (folder / "own.py").write_text(SCRIPT)
    words = [sys.executable, str(folder / "own.py"), str(folder / "run")]
    done = subprocess.run(words, capture_output=True, text=True, env=environment())
    assert done.returncode == 0, done.stderr
    return folder / "run", done


@pytest.mark.thorough
def test_a_function_of_a_script_is_an_objective(script) -> None:
    run, done = script
    assert "final scores (test)" in done.stderr, "there is a progress bar"
    number, digest = done.stdout.split()
    row = Run(run).candidates.loc[int(number)]
    assert row["digest"] == digest


@pytest.mark.thorough
def test_a_run_with_a_function_of_a_notebook_goes_on_elsewhere(script, tmp_path: Path) -> None:
    """The program that goes on has another `__main__`; the journal is the one of the script."""
    run, whole = tmp_path / "run", script[0]
    shutil.copytree(whole, run)
    journal = run / "journal.jsonl"
    events = [json.loads(line) for line in journal.read_text().splitlines()]
    (last,) = (n for n, event in enumerate(events) if event.get("event") == "budget")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: last + 1]))

    sentence = r"'__main__:size' could not be imported: .* go on with `evomerge.resume\(RUN, "
    sentence += r"objectives={'size': FUNCTION}\)` in Python\.$"
    with pytest.raises(ConfigError, match=sentence):
        resume(run, progress=False)
    assert (
        "evomerge.resume(RUN, objectives={'size': FUNCTION})"
        in evomerge("resume", run, code=2).stderr
    )
    for given, fault in (
        (
            {"sise": size},
            "names 'sise', but .* has no such function; allowed are size. Did you mean",
        ),
        ({"size": 3}, "has 3 for 'size', which is no function"),
    ):
        with pytest.raises(ConfigError, match=fault):
            resume(run, objectives=given, progress=False)
    with pytest.raises(ConfigError, match=r"is 'processes', whose processes cannot"):
        resume(run, objectives={"size": size}, kind="processes", progress=False)

    resume(run, objectives={"__main__:size": size}, progress=False)
    assert journal.read_bytes() == (whole / "journal.jsonl").read_bytes()
    with pytest.raises(ConfigError, match="could not be imported"):
        find("__main__:size")


def test_a_search_is_that_of_the_command_line_and_its_winner_scores_the_same(tmp_path) -> None:
    file = write_search(tmp_path, budget={"candidates": 8})
    evomerge("search", file, "--run", tmp_path / "one")
    seen: list[str] = []

    def follow(history: History, event: Event) -> None:
        seen.append(event["event"])

    with pytest.raises(RunFolderError, match="already holds a run"):
        search(SMALL | {"budget": {"candidates": 8}}, tmp_path / "one")
    run = search(file, tmp_path / "two", progress=False, followers=[follow])
    journals = [(tmp_path / name / "journal.jsonl").read_bytes() for name in ("one", "two")]
    assert journals[0] == journals[1]
    assert seen.count("tell") == 8

    exported = run.export(tmp_path / "model")
    model, tokenizer = run.load()
    stored = load_file(exported / "model.safetensors")
    assert all((model.state_dict()[name] == tensor).all() for name, tensor in stored.items())
    assert tokenizer.decode(tokenizer("items").input_ids, skip_special_tokens=True) == "items"
    merged = merge(run.recipe(), tmp_path / "merged")
    name = "model.safetensors"
    assert (exported / name).read_bytes() == (merged / name).read_bytes()
    score = evaluate(exported, file, "test")["zoo_l2_maths/exact_match"]
    assert score.value == run.best.scores("test").aggregates["zoo_l2_maths/exact_match"]
    assert score.low <= score.value <= score.high
    assert resume(run, progress=False).best is not None


def test_a_cell_can_be_run_again(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`resume=True` starts or continues, and a larger budget counts; at its end it has no bar."""
    config = copy.deepcopy(SMALL)
    run = search(config, tmp_path / "run", candidates=5, resume=True, progress=False)
    assert config == SMALL, "the mapping stays as it is"
    journal = run.folder / "journal.jsonl"
    first = journal.read_bytes()
    capfd.readouterr()
    run = search(SMALL, tmp_path / "run", candidates=5, resume=True)
    assert journal.read_bytes() == first and capfd.readouterr().err == ""
    run = search(SMALL, tmp_path / "run", candidates=7, resume=True)
    assert len(run.candidates) == 7 and "final scores" in capfd.readouterr().err

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match=r"nothing is lost; go on with evomerge.resume\("):
        resume(run, candidates=8, followers=[interrupt])
    file = write_search(tmp_path, budget={"candidates": 7})
    evomerge("search", file, "--run", tmp_path / "run", "--resume")
    with pytest.raises(RunFolderError, match=r"it differs in `seed`"):
        search(SMALL | {"seed": 2}, tmp_path / "run", resume=True)


def test_a_search_begins_nothing_if_its_warnings_are_errors(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="is known to"):
            search(SMALL, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_bar_leaves_the_streams_of_the_program_alone(tmp_path: Path) -> None:
    streams, changed = (sys.stdout, sys.stderr), list[object]()

    def follow(history: object, event: object) -> None:
        changed.extend([] if (sys.stdout, sys.stderr) == streams else [event])

    search(SMALL, tmp_path / "run", candidates=3, followers=[follow])
    assert not changed


def test_functions_that_resume_could_not_find_are_refused() -> None:
    with pytest.raises(ConfigError, match="not a function at the top level"):
        with_named_functions({"objectives": [lambda model, tokenizer, documents: []]})
    found = with_named_functions({"objectives": [{"task": write_search, "weight": 2.0}, "t"]})
    name, metric = "search_run:write_search", "score"
    assert found["objectives"] == [{"task": name, "metric": metric, "weight": 2.0}, "t"]
