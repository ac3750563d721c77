"""A mistake of a person is one sentence and exit code 2, before any model is loaded.

`bad_input.yaml` has the mistakes: each row is a change, and words that the sentence has.
"""

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval.tasks
import pytest
import small_models
import yaml
from lm_tasks import only
from search_run import SMALL
from tiny import copy_of, edit_tokenizer, make

from evomerge import __main__ as program
from evomerge.execute.worker import Worker

TABLE = yaml.safe_load(Path(__file__).with_suffix("").with_name("bad_input.yaml").read_text())
FEW = {split: {"documents": 5} for split in ("search", "validation", "test")}
SEARCH = {key: value for key, value in SMALL.items() if key != "space"}
MERGEKIT = {
    "merge_method": "ties",
    "base_model": "./a",
    "models": [{"model": "./b", "parameters": {"weight": 1, "density": 0.5}}],
}
LINEAR = {"kind": "parameters", "method": "linear"}
SEARCHED = "search file.yaml --run new"
MERGE = "merge file.yaml --out out"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tiny models."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate("abc"):
        make(folder / name, seed=seed)
    return folder


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Be in an empty folder; a worker that is made, which would load a model, fails the test.

    To look through all tasks of lm-eval for an unknown one would take half a minute.
    """

    def load(*arguments: Any, **options: Any) -> None:
        raise AssertionError("a model is loaded")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(Worker, "__init__", load)
    monkeypatch.setattr(lm_eval.tasks, "TaskManager", only("gsm8k"))


def write(content: Any, name: str = "file.yaml") -> None:
    Path(name).write_text(content if isinstance(content, str) else yaml.safe_dump(content))


def write_search(change: dict[str, Any], models: Path) -> str:
    """Keys of the small search file; those of `evaluation` are put beside its own."""
    own = {"include": ["zoo:tasks"], **FEW, **change.get("evaluation", {})}
    write(SEARCH | change | {"evaluation": own})
    Path("run").mkdir()
    write("", "run/journal.jsonl")
    return SEARCHED


def set_(value: str, models: Path) -> str:
    write_search({}, models)
    return f"{SEARCHED} --set {shlex.quote(value)}"


def text(content: str, models: Path) -> str:
    write(content)
    return SEARCHED


def command(line: str, models: Path) -> str:
    write_search({}, models)
    Path("file.yaml").rename("search.yaml")
    Path("full").mkdir()
    write("", "full/thesis.tex")
    write({"base_model": "zoo:base", "experts": []}, "moe.yaml")
    return line


def questions(rows: Any, models: Path) -> str:
    """Rows of own.jsonl, or the text of own.csv, for which `init` is to write a task."""
    name = "own.csv" if isinstance(rows, str) else "own.jsonl"
    write(rows if isinstance(rows, str) else "".join(f"{json.dumps(row)}\n" for row in rows), name)
    return f"init x.yaml --parents zoo:maths zoo:facts --task {name}"


def mergekit(change: dict[str, Any], models: Path) -> str:
    shutil.copytree(models, ".", dirs_exist_ok=True)
    merged = MERGEKIT | change
    write({key: value for key, value in merged.items() if value is not None})
    return MERGE


def mergekit_text(content: str, models: Path) -> str:
    write(content)
    return MERGE


def recipe(parts: Any, models: Path) -> str:
    """A method, the knobs of each source, those of the merge, and the base."""
    method, sources, knobs, base = parts
    named = [{"parent": "zoo:maths", "knobs": item} for item in sources]
    layer = {"method": method, "sources": named, "knobs": knobs}
    layer |= {"base": {"parent": base}} if base else {}
    write({"host": "zoo:base", "layers": {}, "embeddings": layer, "head": layer})
    return MERGE


def config(change: dict[str, Any], models: Path) -> str:
    return write_search({"base": str(copy_of("base", Path("host"), **change))}, models)


def tokenizer(change: dict[str, Any], models: Path) -> str:
    edit_tokenizer(copy_of("base", Path("host")), **change)
    return write_search({"base": "./host"}, models)


def two_models(parts: Any, models: Path) -> str:
    """The settings of two parents, and keys of a search file that merges them."""
    one, two, *keys = parts
    make(Path("a"), **one)
    make(Path("b"), **two)
    changes = {"parents": ["./a", "./b"], "base": None, "space": LINEAR} | dict(*keys)
    return write_search(changes, models)


def more_of(value: Any, number: int) -> Any:
    """Return another text of a row; labels and scores stay."""
    return f"{value} w{number}" if str(value).startswith("w") else value


def kinds(change: dict[str, Any], models: Path) -> str:
    """Keys of a search over models, rows and tasks of `small_models`; `own`: rows of own.jsonl."""
    for name in ("rows", "tasks", *change["parents"]):
        small_models.make(models, name)
    for name in ("rows", "again"):
        shutil.copytree(models / "rows", name)
    own = change.get("own", [])
    more = [
        {key: more_of(value, i) for key, value in own[-1].items()} for i in range(40 if own else 0)
    ]
    Path("own.jsonl").write_text("\n".join(map(json.dumps, [*own, *more])))
    given = {
        "base": None,
        "space": LINEAR,
        **{key: value for key, value in change.items() if key != "own"},
        "parents": [str(models / name) for name in change["parents"]],
        "evaluation": {"include": [str(models / "tasks")], **change.get("evaluation", {})},
    }
    return write_search(given, models)


SECTIONS: dict[str, Callable[[Any, Path], str]] = {
    "search": write_search,
    "several": write_search,
    "set": set_,
    "text": text,
    "command": command,
    "questions": questions,
    "mergekit": mergekit,
    "mergekit text": mergekit_text,
    "recipe": recipe,
    "config": config,
    "tokenizer": tokenizer,
    "models": two_models,
    "kinds": kinds,
}
"""Section of the table -> what makes the mistake in the working folder; returns the command."""

ROWS = [
    pytest.param(section, change, words, id=f"{section}: {json.dumps(change)[:60]}")
    for section, rows in TABLE.items()
    for change, *words in rows
]


@pytest.mark.parametrize(("section", "change", "words"), ROWS)
def test_a_mistake_is_one_sentence(section, change, words, models, monkeypatch, capsys):
    line = SECTIONS[section](change, models)
    monkeypatch.setattr("sys.argv", ["evomerge", *shlex.split(line)])
    capsys.readouterr()  # bars of transformers, where models are made
    before = sorted(Path().rglob("*"))
    with pytest.raises(SystemExit) as ended:
        program.main()
    said = capsys.readouterr()
    assert ended.value.code == 2, said
    first = "checking ", "opening "  # what is being done
    sentences = [line for line in said.err.splitlines() if not line.startswith(first)]
    assert all(it.startswith("evomerge: ") and len(it) < 1100 for it in sentences)
    assert len(sentences) == (len(words) if section == "several" else 1) and not said.out, said.err
    assert [word for word in words if word not in said.err] == [], said.err
    assert sorted(Path().rglob("*")) == before
