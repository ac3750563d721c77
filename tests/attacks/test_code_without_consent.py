"""A stranger's search file or run folder runs no code before the user has allowed it."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import executor_laws
import lm_eval
import pytest
import yaml
from search_run import SMALL, SPLITS, evomerge, write_search

import evomerge as evomerge_package
from evomerge.__main__ import run
from evomerge.errors import ConfigError

pytestmark = pytest.mark.thorough

TASK = {
    "task": "theirs", "dataset_path": "json", "test_split": "test", "doc_to_text": "{{question}}",
    "output_type": "multiple_choice", "doc_to_target": "{{answer}}", "doc_to_choice": ["yes", "no"],
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}  # fmt: skip
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
    about = {"evaluation": {**SPLITS, "include": ["./theirs"]}, "budget": {"candidates": 4}}
    return write_search(folder, objectives=[{"task": "theirs", "metric": "acc"}], **about)


def write_function(folder: Path, mark: Path) -> Path:
    """Write a search file with a task whose documents pass a function beside its YAML."""
    file = write_task(folder, tags="process_docs: !function tools.docs\n")
    (folder / "theirs" / "tools.py").write_text(MODULE.format(mark=str(mark)))
    return file


def write_objective(folder: Path, mark: Path, name: str) -> Path:
    """Write a search file whose objective is a function of a module beside it."""
    (folder / f"{name}.py").write_text(MODULE.format(mark=str(mark)))
    about = {"evaluation": SPLITS, "budget": {"candidates": 4}}
    return write_search(folder, objectives=[{"task": f"{name}:go", "metric": "score"}], **about)


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
    assert "theirs.yaml" in refused(*words[command], names="tools.py")
    assert not mark.exists() and not (tmp_path / "run").exists()


# tests/trust has all that counts as code.
CODE = {
    "a tag of Python": {"tags": "x: !!python/object/apply:os.system ['touch MARK']\n"},
    "a script of a metric": {"metric_list": [{"metric": "HERE/metric.py"}]},
    # An index of fsspec's files by reference; older versions ran templates without a sandbox.
    "an index": {"dataset_kwargs": {"data_files": {"test": "reference://rows.jsonl::INDEX"}}},
}


@pytest.mark.parametrize("case", CODE)
@pytest.mark.parametrize("where", ["task", "included"])
def test_whatever_lets_lm_eval_run_something_is_refused(tmp_path, mark, case, where):
    tasks = tmp_path / "theirs"
    index = {"version": 1, "templates": {"u": ESCAPE.replace("MARK", str(mark))}, "refs": {}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    text = json.dumps(CODE[case]).replace("MARK", str(mark)).replace("HERE", str(tasks))
    file = write_task(tmp_path, **json.loads(text.replace("INDEX", str(tmp_path / "index.json"))))
    (tasks / "metric.py").write_text(MODULE.format(mark=str(mark)))
    if where == "included":
        (tasks / "theirs.yaml").rename(tasks / "part")
        (tasks / "theirs.yaml").write_text("include: part\ntask: theirs\n")
    said = refused("validate", file, names="part" if where == "included" else "theirs.yaml")
    assert said.startswith("This search runs code of its own: ") and not mark.exists()


LM_EVAL = Path(lm_eval.__path__[0], "tasks")
OUTPUT = LM_EVAL / "cruxeval" / "cruxeval_output.yaml"
# Files of a stranger, by their names in `theirs`. DATA and OUTPUT stand for rows of theirs, with
# code in them, and for a task of lm-eval that runs such code.
CHANGES = {
    "an absolute path": {"t.yaml": "include: OUTPUT\ntask: theirs\nDATA"},
    "a relative path": {"t.yaml": "include: RELATIVE\ntask: theirs\nDATA"},
    "a list": {"t.yaml": "include: [OUTPUT]\ntask: theirs\nDATA"},
    "an alias": {"t.yaml": "x: &x OUTPUT\ninclude: *x\ntask: theirs\nDATA"},
    "a merged key": {"t.yaml": "x: &x {include: OUTPUT}\n<<: *x\ntask: theirs\nDATA"},
    "a way by a folder that is not there": {
        "t.yaml": "include: nowhere/../part\ntask: theirs\n",
        "part": "include: OUTPUT\nDATA",
    },
    "two steps": {"t.yaml": "include: part\ntask: theirs\nDATA", "part": "include: OUTPUT\n"},
    "a change in the middle": {
        "t.yaml": "include: part\ntask: theirs\n",
        "part": "include: OUTPUT\nDATA",
    },
    "a linked file": {"t.yaml": "include: linked.yaml\ntask: theirs\nDATA"},
    "a linked folder": {"t.yaml": f"include: linked/{OUTPUT.name}\ntask: theirs\nDATA"},
    "a group of it": {
        "t.yaml": "include: OUTPUT\ntask: inner\n",
        "g.yaml": "group: theirs\ntask: [inner]\nDATA",
    },
    "a group of its tag": {
        "t.yaml": "include: OUTPUT\ntask: inner\ntag: tagged\n",
        "g.yaml": "group: theirs\ntask: [{task: tagged, FLOW}]\n",
    },
    "a group in a group": {
        "t.yaml": "include: OUTPUT\ntask: inner\n",
        "g.yaml": "group: theirs\ntask: [{group: own, task: [{task: inner, FLOW}]}]\n",
    },
    "a group that is a task, too": {
        "t.yaml": "include: [part, OUTPUT]\ntask: theirs\nDATA",
        "part": "task: [other]\n",
    },
    "an answer by a filter": {
        "t.yaml": f"include: {LM_EVAL}/longproc/countdown_0.5k.yaml\ntask: theirs\n"
        "filter_list: [{name: a, filter: [{function: map, mapping_dict: {}, default_value: x}]}]\n"
    },
    "a function without a flag": {
        "t.yaml": f"include: {LM_EVAL}/score/math/non_greedy_robustness_math_algebra.yaml\n"
        "task: theirs\nDATA"
    },
}


@pytest.mark.parametrize("case", CHANGES)
def test_no_stranger_chooses_what_code_of_lm_eval_reads(tmp_path, mark, case):
    """Functions of lm-eval run text of documents and answers."""
    file = write_task(tmp_path)
    tasks = tmp_path / "theirs"
    (tasks / "theirs.yaml").unlink()
    (tasks / "linked.yaml").symlink_to(OUTPUT)
    (tasks / "linked").symlink_to(OUTPUT.parent)
    code = f"open({str(mark)!r}, 'w')\ndef f(x): return x"
    row = {"code": code, "input": "1)==1 #", "output": "1", "id": "0"}
    (tasks / "rows.jsonl").write_text((json.dumps(row) + "\n") * 12)
    keys = [
        *("dataset_path: json", "dataset_name: null", "unsafe_code: false", "repeats: 1"),
        f"dataset_kwargs: {{data_files: {{test: {tasks}/rows.jsonl}}}}",
    ]
    put = {"FLOW": ", ".join(keys), "DATA": "\n".join(keys) + "\n", "OUTPUT": str(OUTPUT)}
    put["RELATIVE"] = os.path.relpath(OUTPUT, tasks)
    for name, text in CHANGES[case].items():
        for word, value in put.items():
            text = text.replace(word, value)
        (tasks / name).write_text(text)
    for words in (["validate"], ["search", "--run", str(tmp_path / "run")]):
        with pytest.raises(ConfigError, match=r"changes what the functions of task.*--trust-code"):
            run([words[0], str(file), *words[1:]])
    with pytest.raises(ConfigError, match="--trust-code"):
        evomerge_package.evaluate("zoo:base", file, allow_code=True)
    with pytest.raises(ConfigError, match="--allow-code"):
        run(["validate", str(file), "--trust-code"])
    assert not mark.exists() and not (tmp_path / "run").exists()


CARD = """---
configs:
- config_name: default
  data_files:
  - split: test
    path: "reference:\\u002F/*.jsonl::INDEX"
---
# Data
"""


@pytest.mark.parametrize("name", ["README.md", ".huggingface.yaml"])
def test_the_card_of_a_local_data_set_is_looked_at(tmp_path, mark, name):
    index = {"version": 1, "templates": {"u": ESCAPE.replace("MARK", str(mark))}, "refs": {}}
    (tmp_path / "index.json").write_text(json.dumps(index))
    (tmp_path / "data").mkdir()
    text = CARD.replace("INDEX", str(tmp_path / "index.json"))
    text = text if name == "README.md" else text.split("---")[1]
    file = write_task(tmp_path, dataset_path=str(tmp_path / "data"), dataset_kwargs={})
    shutil.copy(tmp_path / "theirs" / "rows.jsonl", tmp_path / "data" / "test.jsonl")
    assert run(["validate", str(file)]) == 0
    (tmp_path / "data" / name).write_text(text)
    refused("validate", file, names="theirs.yaml")
    assert not mark.exists()


@pytest.mark.parametrize("text", [ESCAPE, "{% if '7' in question %}" + ESCAPE + "{% endif %}"])
def test_a_template_cannot_leave_the_sandbox(tmp_path, mark, text):
    file = write_task(tmp_path, doc_to_text=text.replace("MARK", str(mark)))
    with pytest.raises(ConfigError, match="of a task cannot be used"):
        run(["search", str(file), "--run", str(tmp_path / "run")])
    assert not mark.exists()


def test_an_objective_is_not_imported(tmp_path, mark):
    file = write_objective(tmp_path, mark, "beside")
    # As `python -m`, which searches the working folder.
    said = evomerge("validate", file, code=2, cwd=tmp_path).stderr
    assert "beside.py; read it, then allow it with --trust-code" in said
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


def test_workers_get_the_consent_of_the_process_that_starts_them(tmp_path, mark, monkeypatch):
    file = write_objective(tmp_path, mark, "in_workers")
    monkeypatch.syspath_prepend(tmp_path)
    words = ["search", file, "--run", tmp_path / "run", "--set", "executor.kind=processes"]
    refused(*words, names="in_workers.py")
    assert not mark.exists()
    assert run([*map(str, words), "--trust-code"]) == 0
    mark.unlink()
    function = importlib.import_module("in_workers").go  # an object needs no consent
    config = SMALL | {"objectives": [function], "evaluation": SPLITS, "budget": {"candidates": 4}}
    config["executor"] = {"kind": "processes", "workers": 1}
    assert evomerge_package.search(config, tmp_path / "own", progress=False).best is not None
    assert mark.exists()


PROGRAM = """
import os
from evomerge.execute.processes import ProcessWorker
from executor_laws import Pretend

class Checks(Pretend):
    def make(self):
        assert os.environ.get('PYTHONSAFEPATH') == os.environ.get('WANTED')
        return super().make()

if __name__ == '__main__':
    worker = ProcessWorker(Checks())
    worker.start()
    worker.answer()
    worker.close()
    assert os.environ.get('PYTHONSAFEPATH') == os.environ.get('WANTED')
"""


@pytest.mark.parametrize("wanted", [{}, {"PYTHONSAFEPATH": "1", "WANTED": "1"}])
def test_workers_take_no_modules_from_the_working_folder(tmp_path, mark, monkeypatch, wanted):
    """Python starts a process of `multiprocessing` with `-c`, which looks there first."""
    for name in ("signal", "socket", "tempfile", "threading", "warnings"):
        (tmp_path / f"{name}.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    program = tmp_path / "elsewhere" / "program.py"
    program.parent.mkdir()
    program.write_text(PROGRAM)
    root = str(Path(evomerge_package.__file__).parents[1])
    laws = str(Path(executor_laws.__file__).parent)
    monkeypatch.setenv("PYTHONPATH", f"{root}:{laws}")
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    words = [sys.executable, program]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not mark.exists()
