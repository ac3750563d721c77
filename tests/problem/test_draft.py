"""`evomerge init FILE --parents ... --task ...`: a search file that suits what is there."""

import json
from pathlib import Path

import pytest
import small_models
import tiny
from lm_tasks import write_task
from search_run import evomerge_json
from stock_scores import by_lm_eval

import evomerge
from evomerge.__main__ import run
from evomerge.config.schema import load, read
from evomerge.errors import ConfigError
from evomerge.problem.draft import draft
from evomerge.problem.runs import prepare


def splits(search, validation, test):
    return {"search": search, "validation": validation, "test": test}


def test_a_file_is_written_that_is_a_valid_search_with_a_comment_for_each_key(tmp_path, capsys):
    file = tmp_path / "my.yaml"
    words = f"--parents zoo:language zoo:maths {file} --base zoo:base --task zoo_l2_maths"
    assert run(["init", *words.split(), *["--task", "zoo_facts"] * 2]) == 0
    assert read(file) == {
        "seed": 0,
        "parents": ["zoo:language", "zoo:maths"],
        "base": "zoo:base",
        "dtype": "float32",
        "space": {
            "method": "task_arithmetic", "groups": 3, "embeddings": True,
            "knobs": {"weight": [0.0, 1.5]},
        },
        "optimizer": {"name": "auto"},
        "objectives": [
            {"task": "zoo_l2_maths", "metric": "exact_match"},
            {"task": "zoo_facts", "metric": "acc"},
        ],
        "evaluation": {
            "include": ["zoo:tasks"],
            **splits({"documents": "auto"}, {"documents": 200}, {"documents": "all"}),
            "also": [{"texts": 64}],
        },
        "budget": {"candidates": 400},
    }  # fmt: skip
    lines = [line for line in file.read_text().splitlines() if line[0] != "#"]
    assert [line for line in lines if ": " in line and "#" not in line] == lines[13:15]
    assert "gradient needs a tenth" in file.read_text()
    prepare(load(file), tmp_path)
    said = capsys.readouterr().err
    assert said.startswith("opening parents and tasks\n") and "validate --time" in said


def drafted(folder, parents, tasks, include=(), base=None):
    (folder / "sub").mkdir(exist_ok=True)
    file = folder / "sub" / "my.yaml"
    file.write_text(draft(file, parents, base, tasks, include).text)
    return read(file)


@pytest.mark.parametrize(
    ("kind", "rows", "objective"),
    [
        ("encoder", "pairs", {"encoder": "sts"}),
        ("encoder", "questions", {"encoder": "retrieval"}),
        ("encoder", "labels", {"encoder": "classification"}),
        ("texts", "texts", {"classifier": "accuracy"}),
        ("answers", "answers", {"classifier": "pairwise"}),
    ],
)
def test_rows_of_a_file_are_known_by_their_columns(tmp_path, monkeypatch, kind, rows, objective):
    monkeypatch.chdir(tmp_path)
    for name in (f"{kind}-one", f"{kind}-two", "rows"):
        small_models.make(tmp_path, name)
    found = drafted(tmp_path, [f"{kind}-one", f"./{kind}-two"], [f"rows/{rows}.jsonl"])
    assert found["parents"] == [str(tmp_path / f"{kind}-{which}") for which in ("one", "two")]
    assert found["objectives"] == [{**objective, "file": str(tmp_path / f"rows/{rows}.jsonl")}]
    assert found["space"]["knobs"] == {"t": [0.0, 1.0]} and "base" not in found
    assert found["evaluation"]["search"] == {"documents": "auto"}
    each = 13 if rows == "labels" else 20
    assert found["evaluation"]["validation"] == {"documents": each}
    assert found["budget"] == {"candidates": 100}, "there are too few for fresh documents"


def test_parents_whose_vocabularies_or_depths_differ(tmp_path):
    for name in ("union-one", "union-two"):
        small_models.make(tmp_path, name)
    tiny.make(tmp_path / "deep", num_hidden_layers=4)
    write_task(tmp_path, "own", [{"q": f"w{i}", "a": "w1"} for i in range(40)])
    one, two, deep = (str(tmp_path / name) for name in ("union-one", "union-two", "deep"))
    assert drafted(tmp_path, [one, two], ["own"], [str(tmp_path)])["tokenizer"] == "union"
    assert drafted(tmp_path, [one, deep], ["own"], [str(tmp_path)])["space"]["kind"] == "dataflow"


def test_scores_that_are_told_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"`evomerge\.Study` in Python"):
        drafted(tmp_path, ["zoo:language", "zoo:maths"], ["told"])


def test_what_was_decided_without_being_asked_is_said(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"w{i}", "answer": "w1"} for i in range(40)]
    (tmp_path / "größe.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = "init my.yaml --parents zoo:language zoo:maths --task größe.jsonl"
    assert run(words.split()) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "no base is given, so the method is slerp; with --base MODEL" in said
    assert "größe has 40 rows, so the splits are small: 13 for search, 13 for valid" in said
    assert "größe: 40 rows with question, answer; exact_match counts" in said
    assert "±27 points on 13 search documents" in said
    assert "{task: größe, metric: exact_match}" in (tmp_path / "my.yaml").read_text()
    assert '"../größe.jsonl"' in (tmp_path / "tasks" / "größe.yaml").read_text()
    assert read(tmp_path / "my.yaml")["evaluation"]["include"] == ["tasks"]


def test_questions_are_searched_from_any_folder_and_get_the_score_of_the_stock_tool(
    tmp_path, monkeypatch
):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for folder in (home / "data", elsewhere):
        folder.mkdir(parents=True)
    asked = [
        {"prompt": f"tom has {n} apples . buys {m} . howmany now ? :", "answer": f"{n + m} items"}
        for n in range(2, 10)
        for m in range(1, 6)
    ]
    (home / "data" / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    monkeypatch.chdir(tmp_path)
    words = "init home/my.yaml --parents zoo:language zoo:maths --task home/data/sums.jsonl"
    assert run(words.split()) == 0
    monkeypatch.chdir(elsewhere)
    done = evomerge.search(home / "my.yaml", home / "run", candidates=5, progress=False)
    scores = done.winner.scores("test")
    folder, command = home / "tasks", evomerge_json("results", home / "run")["lm_eval"]
    assert command.startswith(f"cd {folder} && OMP_NUM_THREADS=1 lm_eval ")
    model = done.export(tmp_path / "model")
    monkeypatch.chdir(folder)  # as the command says
    search = {"evaluation": {"include": [str(folder)]}}
    stock = by_lm_eval(search, "float32", model, scores.documents)
    assert stock["sums/exact_match"] == scores.aggregates["sums/exact_match"] > 0


def test_a_task_is_written_once_and_changes_of_a_person_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = "".join(f'{{"question": "w{i}", "answer": "w1"}}\n' for i in range(40))
    (tmp_path / "own.jsonl").write_text(rows)
    parents, task = ["zoo:language", "zoo:maths"], tmp_path / "tasks" / "own.yaml"
    draft(Path("my.yaml"), parents, None, ["own.jsonl"], [])
    draft(Path("my.yaml"), parents, None, ["own.jsonl"], [])
    task.write_text(task.read_text() + "description: w2\n")
    with pytest.raises(ConfigError, match=r"own\.yaml is there already.*--task own --include"):
        draft(Path("my.yaml"), parents, None, ["own.jsonl"], [])
    assert draft(Path("my.yaml"), parents, None, ["own"], ["tasks"]).notes
