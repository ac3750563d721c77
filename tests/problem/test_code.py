"""A search whose task runs what its models write."""

import gc
import shutil

import psutil
import pytest
from search_run import write_search
from typer.testing import CliRunner

import evomerge as package
from evomerge import zoo
from evomerge.cli.commands import app
from evomerge.errors import InputError
from evomerge.run.folder import RunFolder
from evomerge.run.history import History

pytestmark = pytest.mark.thorough

TASK = """
task: says
custom_dataset: !function documents.load
dataset_kwargs: {file: zoo_maths.jsonl}
test_split: test
unsafe_code: true
output_type: generate_until
doc_to_text: prompt
doc_to_target: "assert answer == '{{answer}}'"
generation_kwargs: {until: ["<eos>"], do_sample: false, max_gen_toks: 3}
filter_list:
  - name: program
    filter:
      - {function: custom, filter_fn: !function programs.says}
metric_list:
  - metric: !function programs.pass_at_1
    aggregation: mean
    higher_is_better: true
"""

PROGRAMS = """
import os


def pass_at_1(references, predictions):
    assert os.environ["HF_ALLOW_CODE_EVAL"] == "1"
    try:
        exec(f"{predictions[0][0]}\\n{references[0]}", {})
    except Exception:
        return 0.0
    return 1.0


def says(resps, docs):
    return [[f"answer = {text.strip()!r}" for text in of_document] for of_document in resps]
"""

TRUSTING = {"allow_code": True, "trust_code": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A task whose program is right where the answer is."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "documents.py").write_text((zoo.tasks_path() / "documents.py").read_text())
    (folder / "zoo_maths.jsonl").symlink_to(zoo.tasks_path() / "zoo_maths.jsonl")
    (folder / "programs.py").write_text(PROGRAMS)
    (folder / "says.yaml").write_text(TASK)
    return folder


def file_in(path, folder, metric="pass_at_1"):
    """Write a search for the code task, and for the answers themselves."""
    evaluation = {
        "include": ["zoo:tasks", str(folder)],
        "search": {"documents": 8},
        "validation": {"documents": 4, "finalists": 1},
        "test": {"documents": 4},
    }
    objectives = [
        {"task": "says", "metric": metric},
        {"task": "zoo_maths", "metric": "exact_match"},
    ]
    return write_search(
        path, objectives=objectives, evaluation=evaluation, budget={"candidates": 4}
    )


def count_processes():
    gc.collect()
    below = psutil.Process().children(recursive=True)
    return sum("tasks.code import main" in " ".join(process.cmdline()) for process in below)


def test_a_search_scores_the_code_that_its_models_write(tmp_path, folder):
    """The task whose program compares the answer has the scores of the metric that does so."""
    run = package.search(file_in(tmp_path, folder), tmp_path / "run", progress=False, **TRUSTING)
    history = History(RunFolder(run.folder).events())
    assert len(history.candidates) == 4
    for candidate in history.candidates:
        values = candidate.outcomes["search"].values
        assert values["says/pass_at_1"] == values["zoo_maths/exact_match"]
    assert any(any(item.outcomes["search"].values["says/pass_at_1"]) for item in history.candidates)

    scores = package.evaluate("zoo:maths", run.folder / "search.yaml", **TRUSTING)
    assert scores["says/pass_at_1"].value == scores["zoo_maths/exact_match"].value
    assert RunFolder(run.folder).manifest()["allow_code"] is True
    assert count_processes() == 0


def test_without_the_flag_a_command_names_the_task_and_the_flag(tmp_path, folder, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(file_in(tmp_path, folder))
    for words in (["search", file, "--run", "run"], ["evaluate", "zoo:maths", "--config", file]):
        result = CliRunner().invoke(app, [*words, "--trust-code"])
        assert isinstance(result.exception, InputError) and result.exception.exit_code == 2
        assert "'says' runs code" in str(result.exception)
        assert "--allow-code" in str(result.exception)
    assert not (tmp_path / "run").exists()


def test_a_run_that_did_not_allow_code_never_runs_it(tmp_path, folder):
    """Not even if the YAML of its task is changed later, or the Python beside it."""
    own = shutil.copytree(folder, tmp_path / "tasks")
    files = {name: own / name for name in ("says.yaml", "programs.py")}
    unsafe = {name: file.read_text() for name, file in files.items()}
    safe = unsafe["says.yaml"].replace("unsafe_code: true\n", "")
    files["says.yaml"].write_text(safe.replace("!function programs.pass_at_1", "exact_match"))
    files["programs.py"].write_text("def says" + unsafe["programs.py"].partition("def says")[2])
    before = {name: file.read_text() for name, file in files.items()}
    file = file_in(tmp_path, own, "exact_match")
    run = package.search(file, tmp_path / "run", progress=False, trust_code=True)
    for name, path in files.items():
        path.write_text(unsafe[name])
        with pytest.raises(InputError, match="--allow-code"):
            package.resume(run, candidates=6, progress=False, trust_code=True)
        path.write_text(before[name])
