"""`evomerge init FILE --parents ... --task ...`: a search file that suits what is there."""

import pytest
import small_models
import tiny
from lm_tasks import write_task

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
    file.write_text(draft(file, parents, base, tasks, include))
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
