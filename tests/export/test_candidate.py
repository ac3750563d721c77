"""An export has bitwise the weights that were scored, and stock lm_eval's score is the same."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from search_run import environment, evomerge, evomerge_json, start, write_search
from transformers import AutoModelForCausalLM

from evomerge import zoo
from evomerge.config.schema import load
from evomerge.errors import CheckpointError
from evomerge.execute.worker import Worker
from evomerge.export.checkpoint import RECIPE, export_candidate
from evomerge.problem.problem import recipe_of
from evomerge.problem.runs import begin, prepare, problem_of
from evomerge.run.folder import RunFolder
from evomerge.run.history import History

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run over a multiple-choice and a generation task."""
    folder = tmp_path_factory.mktemp("export")
    tasks = {"zoo_l2_maths": "exact_match", "zoo_facts": "acc"}
    objectives = [{"task": task, "metric": metric} for task, metric in tasks.items()]
    file = write_search(folder, objectives=objectives)
    evomerge("search", file, "--run", folder / "run", "--candidates", "14")
    return folder / "run"


@pytest.fixture(scope="module")
def exported(run):
    evomerge("export", run, "--out", run / "model", "--shard-size", "1MB")
    return run / "model"


def test_the_export_is_bitwise_the_scored_model_and_that_of_its_recipe(run, exported, tmp_path):
    problem, history = problem_of(RunFolder(run)), History(RunFolder(run).events())
    worker = Worker(problem, neighbours=2)
    # As in a search, the winner is built after other candidates; none of their weights may remain.
    for candidate in (history.candidates[-1], history.candidates[3], history.winner):
        resident = worker.build(recipe_of(problem.space, candidate))
    ours = {name: tensor.clone() for name, tensor in resident.state_dict().items()}
    evomerge("merge", run / "best.yaml", "--out", tmp_path / "again")
    for path in (exported, tmp_path / "again"):
        theirs = AutoModelForCausalLM.from_pretrained(path, dtype="auto").state_dict()
        assert ours.keys() == theirs.keys()
        for name, tensor in ours.items():
            assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


def test_overwrite_replaces_what_evomerge_wrote_and_nothing_else(run, tmp_path):
    out, thesis = tmp_path / "model", tmp_path / "thesis"
    evomerge("export", run, "--out", out, "--candidate", "0")
    thesis.mkdir()
    again = ("export", run, "--candidate", "1")
    assert "--overwrite" in evomerge(*again, "--out", out, code=2).stderr
    assert "did not write it" in evomerge(*again, "--out", thesis, "--overwrite", code=2).stderr
    first = {item.name: item.read_bytes() for item in out.iterdir()}
    evomerge(*again, "--out", out, "--overwrite")
    second = {item.name: item.read_bytes() for item in out.iterdir()}
    assert first.keys() == second.keys() and first != second
    (link := tmp_path / "link").symlink_to("model")
    evomerge("export", run, "--candidate", "0", "--out", link, "--overwrite")
    assert link.is_symlink() and first == {item.name: item.read_bytes() for item in out.iterdir()}
    assert {item.name for item in tmp_path.iterdir()} == {"model", "thesis", "link"}


def test_an_export_brings_back_what_a_killed_one_was_replacing(run, tmp_path):
    out = tmp_path / "model"
    evomerge("export", run, "--out", out, "--candidate", "0")
    first = {item.name: item.read_bytes() for item in out.iterdir()}
    killed = "from evomerge.run import atomic; import os; from pathlib import Path; "
    killed += "rename = Path.rename; Path.rename = lambda path, to: "
    killed += f"os._exit(9) if to == Path({str(out)!r}) else rename(path, to); "
    killed += "from evomerge.__main__ import main; main()"
    again = ["export", str(run), "--candidate", "1", "--out", str(out)]
    done = subprocess.run([sys.executable, "-c", killed, *again, "--overwrite"], env=environment())
    assert done.returncode == 9 and not out.exists()
    assert "exists already" in evomerge(*again, code=2).stderr
    assert first == {item.name: item.read_bytes() for item in out.iterdir()}
    evomerge(*again, "--overwrite")
    assert first != {item.name: item.read_bytes() for item in out.iterdir()}
    assert [item.name for item in tmp_path.iterdir()] == ["model"]


def test_overwrite_replaces_no_parent_of_the_search(tmp_path):
    shutil.copytree(zoo.path("maths"), out := tmp_path / "model")
    (out / RECIPE).touch()
    file = write_search(tmp_path, parents=["zoo:language", "model"])
    wrote = load(file)
    begun = begin(tmp_path / "run", prepare(wrote, tmp_path), wrote, file)
    with pytest.raises(CheckpointError, match="is a parent of this search"):
        export_candidate(begun, out, "best", None, "5GB", overwrite=True)


@pytest.mark.long  # lm-eval indexes all its tasks, which takes half a minute
def test_results_print_the_command_that_reproduces_the_score(run, exported, tmp_path):
    command = evomerge_json("results", run)["lm_eval"].replace("MODEL_DIR", str(exported))
    assert command.startswith("OMP_NUM_THREADS=1 lm_eval ")  # a small model, on one thread
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(
        f"{command} --device cpu --output_path {tmp_path}",
        shell=True,
        env=environment(PATH=path),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.rglob("results_*.json")
    results = json.loads(report.read_text())["results"]
    recorded = History(RunFolder(run).events()).winner.scores("test").aggregates
    for key, value in recorded.items():
        task, _, metric = key.partition("/")
        assert results[task][f"{metric},none"] == value


def test_any_candidate_can_be_exported(run, tmp_path):
    out = tmp_path / "m"
    evomerge("export", run, "--out", out, "--candidate", "4", "--dtype", "bfloat16")
    assert AutoModelForCausalLM.from_pretrained(out, dtype="auto").dtype == torch.bfloat16
    card = (out / "README.md").read_text()
    assert "Written in bfloat16; the scores are those of the float32 weights." in card
    for name, options, words in (("n", ["--candidate", "99"], "candidate is"), ("m", [], "exists")):
        refused = evomerge("export", run, "--out", tmp_path / name, *options, code=2)
        assert words in refused.stderr


def test_a_killed_export_leaves_nothing_half_written(run, exported, tmp_path):
    generator = random.Random(0)
    complete = {item.name: item.read_bytes() for item in exported.iterdir()}
    for attempt in range(3):
        out = tmp_path / f"models{attempt}" / "model"
        out.parent.mkdir()
        begun = ["export", run, "--out", out, "--shard-size", "1MB"]
        with Path(os.devnull).open("w") as nowhere:
            process = start(*begun, stdout=nowhere, stderr=nowhere)
        while process.poll() is None and not list(out.parent.iterdir()):
            time.sleep(0.0005)
        time.sleep(generator.uniform(0, 0.01))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not out.exists():
            evomerge(*begun)
        assert {item.name: item.read_bytes() for item in out.iterdir()} == complete
