"""A stranger's search file or run folder runs no code before the user has allowed it."""

import importlib
import json
import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import executor_laws
import pytest
import yaml
from judging import SPLITS
from search_run import SMALL, evomerge, write_search

import evomerge as evomerge_package
from evomerge.__main__ import run
from evomerge.errors import ConfigError
from evomerge.evaluation.tasks.functions import REGISTERED

pytestmark = pytest.mark.thorough

TASK = {
    "task": "theirs",
    "dataset_path": "json",
    "test_split": "test",
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{answer}}",
    "doc_to_choice": ["yes", "no"],
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}
ESCAPE = "{{ cycler.__init__.__globals__.os.popen('touch MARK').read() }}"
MODULE = """
from pathlib import Path

Path({mark!r}).touch()

def go(model, tokenizer, documents):
    return [0.5 for _ in documents]

go.documents = 12

def docs(data):
    return data
"""


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def mark(tmp_path):
    """A file that appears when code of the stranger runs."""
    return tmp_path / "MARK"


def write_task(folder: Path, tags: str = "", **changes) -> Path:
    """Write a search file with a task in `theirs`; `tags` is YAML that has tags."""
    tasks = folder / "theirs"
    tasks.mkdir(exist_ok=True)
    rows = [{"question": f"is {n} even ?", "answer": n % 2} for n in range(12)]
    (tasks / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"dataset_kwargs": {"data_files": {"test": str(tasks / "rows.jsonl")}}}
    (tasks / "theirs.yaml").write_text(yaml.safe_dump(TASK | data | changes) + tags)
    return write_search(
        folder,
        objectives=[{"task": "theirs", "metric": "acc"}],
        evaluation={**SPLITS, "include": ["./theirs"]},
        budget={"candidates": 4},
    )


def write_function(folder: Path, mark: Path) -> Path:
    """Write a search file with a task whose documents pass a function beside its YAML."""
    file = write_task(folder, tags="process_docs: !function tools.docs\n")
    (folder / "theirs" / "tools.py").write_text(MODULE.format(mark=str(mark)))
    return file


def write_objective(folder: Path, mark: Path, name: str) -> Path:
    """Write a search file whose objective is a function of a module beside it."""
    (folder / f"{name}.py").write_text(MODULE.format(mark=str(mark)))
    return write_search(
        folder,
        objectives=[{"task": f"{name}:go", "metric": "score"}],
        evaluation=SPLITS,
        budget={"candidates": 4},
    )


def refused(*arguments, names: str) -> str:
    """Run a command that must end with a sentence that names a file and the remedy."""
    with pytest.raises(ConfigError) as error:
        run([str(item) for item in arguments])
    assert names in str(error.value)
    assert str(error.value).endswith("; read it, then allow it with --trust-code.")
    return str(error.value)


@pytest.mark.parametrize("command", ["validate", "search", "evaluate"])
def test_a_function_of_a_task_is_not_imported(tmp_path, mark, command):
    file = write_function(tmp_path, mark)
    words = {
        "validate": ["validate", file],
        "search": ["search", file, "--run", tmp_path / "run"],
        "evaluate": ["evaluate", "zoo:base", "--config", file],
    }
    said = refused(*words[command], names="tools.py")
    assert "theirs.yaml" in said
    assert not mark.exists() and not (tmp_path / "run").exists()


def test_a_function_of_another_installed_module_is_not_called_either(tmp_path, mark):
    file = write_task(tmp_path, tags="doc_to_choice: !function os.system\n")
    refused("validate", file, names="theirs.yaml")
    include = (tmp_path / "theirs" / "theirs.yaml").read_text()
    (tmp_path / "theirs" / "theirs.yaml").write_text("include: part\ntask: theirs\n")
    (tmp_path / "theirs" / "part").write_text(include)
    refused("validate", file, names="part")


@pytest.mark.parametrize(
    "tags",
    ["metadata: {? !function tools.docs : 1}\n", "metadata: !!pairs [a: !function tools.docs]\n"],
)
def test_a_function_is_not_imported_from_where_it_is_no_value_of_a_key(tmp_path, mark, tags):
    file = write_function(tmp_path, mark)
    write_task(tmp_path, tags=tags)
    assert "theirs.yaml" in refused("validate", file, names="tools.py")
    assert not mark.exists()


@pytest.mark.parametrize(
    "text",
    [
        ESCAPE,
        "{% if question == 'is 7 even ?' %}" + ESCAPE + "{% endif %}{{question}}",
    ],
    ids=["code", "code for one document"],
)
def test_a_template_cannot_leave_the_sandbox(tmp_path, mark, text):
    file = write_task(tmp_path, doc_to_text=text.replace("MARK", str(mark)))
    with pytest.raises(ConfigError, match="of task 'theirs' cannot be used"):
        run(["search", str(file), "--run", str(tmp_path / "run")])
    assert not mark.exists()


def test_an_objective_is_not_imported(tmp_path, mark):
    file = write_objective(tmp_path, mark, "beside")
    # As `python -m`, which searches the working folder.
    said = evomerge("validate", file, code=2, cwd=tmp_path).stderr
    assert "beside.py; read it, then allow it with --trust-code" in said
    assert not mark.exists()


def test_a_script_of_a_metric_does_not_run(tmp_path, mark):
    (tmp_path / "theirs").mkdir()
    script = tmp_path / "theirs" / "metric.py"
    script.write_text(MODULE.format(mark=str(mark)))
    metric = {"metric": str(script), "aggregation": "mean", "higher_is_better": True}
    refused("validate", write_task(tmp_path, metric_list=[metric]), names="theirs.yaml")
    metric["metric"] = "somebody/metric"
    refused("validate", write_task(tmp_path, metric_list=[metric]), names="theirs.yaml")
    assert not mark.exists()


def test_pickled_documents_and_python_tags_are_code(tmp_path, mark):
    refused("validate", write_task(tmp_path, dataset_path="pandas"), names="theirs.yaml")
    tag = f"x: !!python/object/apply:os.system ['touch {mark}']\n"
    refused("validate", write_task(tmp_path, tags=tag), names="theirs.yaml")
    assert not mark.exists()


def test_a_data_set_may_ask_for_code_only_with_consent(tmp_path):
    more = {"data_files": {"test": str(tmp_path / "theirs" / "rows.jsonl")}}
    file = write_task(tmp_path, dataset_kwargs={**more, "trust_remote_code": True})
    refused("validate", file, names="theirs.yaml")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"metric_list": [{"metric": "somebody/metric"}]}, "theirs.yaml; read it"),
        ({"dataset_kwargs": {"trust_remote_code": True}}, "theirs.yaml; read it"),
        ({"dataset_path": "pandas"}, "theirs.yaml; read it"),
    ],
)
def test_a_member_of_a_group_is_searched_for_code_too(tmp_path, change, said):
    file = write_task(tmp_path)
    group = {"group": "theirs", "task": [TASK | {"task": "inner"} | change]}
    (tmp_path / "theirs" / "theirs.yaml").write_text(yaml.safe_dump(group))
    with pytest.raises(ConfigError, match=said):
        run(["validate", str(file)])


@pytest.mark.parametrize(
    "options",
    [
        {"data_files": {"test": "reference://rows.jsonl::INDEX"}},
        {"data_files": {"test": "reference://rows.jsonl"}, "storage_options": {"fo": "INDEX"}},
        {"data_files": ["https://example.org/rows.jsonl", "Reference://rows.jsonl"]},
    ],
    ids=["chain", "options", "protocol"],
)
def test_an_index_of_data_files_is_not_filled_in(tmp_path, mark, options):
    """Of fsspec's files by reference; older versions of it ran templates without a sandbox."""
    escape = ESCAPE.replace("MARK", str(mark))
    index = tmp_path / "index.json"
    index.write_text(json.dumps({"version": 1, "templates": {"u": escape}, "refs": {}}))
    options = json.loads(json.dumps(options).replace("INDEX", str(index)))
    refused("validate", write_task(tmp_path, dataset_kwargs=options), names="theirs.yaml")
    assert not mark.exists()


def test_the_record_of_a_run_allows_nothing(tmp_path, mark):
    """The run folder may come from somebody else, so each command that loads code is told."""
    file = write_function(tmp_path, mark)
    assert run(["search", str(file), "--run", str(tmp_path / "run"), "--trust-code"]) == 0
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["trust_code"] is True
    shutil.move(tmp_path / "run", tmp_path / "moved")
    mark.unlink()
    moved = str(tmp_path / "moved")
    sys.modules.pop(str(tmp_path / "theirs" / "tools"), None)
    refused("resume", moved, "--candidates", "5", names="tools.py")
    refused("search", file, "--run", moved, "--resume", names="tools.py")
    refused("evaluate", "zoo:base", "--config", f"{moved}/search.yaml", names="tools.py")
    for words in (["status"], ["results"], ["report"], ["export", "--out", str(tmp_path / "out")]):
        assert run([words[0], moved, *words[1:]]) == 0
    assert not mark.exists()
    assert run(["resume", moved, "--candidates", "5", "--trust-code"]) == 0


def test_a_function_of_the_program_needs_no_consent(tmp_path, mark, monkeypatch):
    """It is passed as an object; the processes of workers import its module."""
    write_objective(tmp_path, mark, "of_program")
    monkeypatch.syspath_prepend(tmp_path)
    config = SMALL | {
        "objectives": [importlib.import_module("of_program").go],
        "evaluation": SPLITS,
        "budget": {"candidates": 4},
        "executor": {"kind": "processes", "workers": 1},
    }
    assert evomerge_package.search(config, tmp_path / "run", progress=False).best is not None


def test_workers_get_the_consent_of_the_process_that_starts_them(tmp_path, mark, monkeypatch):
    file = write_objective(tmp_path, mark, "in_workers")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["search", file, "--run", tmp_path / "run", "--set", "executor.kind=processes"]
    refused(*words, names="in_workers.py")
    assert not mark.exists()
    assert run([*map(str, words), "--trust-code"]) == 0
    assert mark.exists()


def test_workers_take_no_modules_from_the_working_folder(tmp_path, mark, monkeypatch):
    """Python starts a process of `multiprocessing` with `-c`, which looks there first."""
    for name in ("signal", "socket", "tempfile", "threading", "warnings"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(
        "import os\n"
        "from evomerge.execute.processes import ProcessWorker\n"
        "from executor_laws import Pretend\n"
        "def make():\n"
        "    assert 'PYTHONSAFEPATH' not in os.environ\n"
        "    return Pretend()()\n"
        "if __name__ == '__main__':\n"
        "    worker = ProcessWorker(make)\n"
        "    worker.start()\n"
        "    worker.answer()\n"
        "    worker.close()\n"
        "    assert 'PYTHONSAFEPATH' not in os.environ\n"
    )
    root = str(Path(evomerge_package.__file__).parents[1])
    laws = str(Path(executor_laws.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{root}:{laws}")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    done = subprocess.run(
        [sys.executable, program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not mark.exists()


def test_entry_points_of_the_working_folder_do_not_count(tmp_path, mark, monkeypatch):
    (tmp_path / "evil.py").write_text(MODULE.format(mark=str(mark)))
    about = tmp_path / "evil-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[evomerge.objectives]\nevil = evil:go\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert any(point.name == "evil" for point in entry_points(group="evomerge.objectives"))
    assert "evil" not in REGISTERED.names()
    with pytest.raises(ConfigError, match="Unknown objective function 'evil'"):
        REGISTERED.get("evil")
    assert not mark.exists()
