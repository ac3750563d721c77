"""Searches over sentence encoders: killed and resumed, on many workers, exported, and evaluated."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import yaml
from killed import check_never_killed, searched
from rounding import near_ties
from safetensors.torch import load_file
from scipy.stats import spearmanr
from search_run import events_of

import evomerge
from evomerge.config.schema import load
from evomerge.errors import CheckpointError, ConfigError
from evomerge.scores import Scores
from evomerge.setup.runs import prepare

sentence_transformers = pytest.importorskip("sentence_transformers")


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


STS = [
    {"sentence1": words(i, i + 1), "sentence2": words(i * i, 3 + i // 44), "score": i * 5 % 7}
    for i in range(60)
]
RETRIEVAL = [
    {"query": words(i, i + 2), "positive": words(i, 5), "negative": [words(7 * i, 2)]}
    for i in range(36)
]
CLASSIFICATION = [
    {"text": words(i, 3 * i), "label": "ab"[i * i % 5 > 1], "train": i % 3 == 0} for i in range(60)
]

SEARCH: dict[str, Any] = {
    "seed": 1,
    "parents": ["one", "two"],
    "dtype": "float32",
    "space": {"kind": "parameters", "method": "linear", "groups": 2, "knobs": {"weight": [0, 1.5]}},
    "optimizer": {"name": "cma"},
    "objectives": [
        {"encoder": "sts", "file": "pairs.jsonl"},
        {"encoder": "retrieval", "file": "data/questions.jsonl"},
        {"encoder": "classification", "file": "labels.jsonl", "weight": 0.5},
    ],
    "evaluation": {
        "search": {"documents": 12},
        "validation": {"documents": 12, "finalists": 2},
        "test": {"documents": 12},
    },
    "budget": {"candidates": 12},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Parents, files of rows, and a search file that names them by relative paths."""
    folder = tmp_path_factory.mktemp("encoders")
    one = tiny.make_encoder(folder / "one", prompts={"query": "w1 "})
    tiny.make_encoder(folder / "two", seed=1, near=one, prompts={"query": "w1 "})
    (folder / "data").mkdir()
    for name, rows in (
        ("pairs", STS),
        ("equal", [{**row, "score": 3} for row in STS]),
        ("data/questions", RETRIEVAL),
        ("labels", CLASSIFICATION),
    ):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    write(folder)
    return folder


def write(folder: Path, name: str = "search.yaml", **changes: Any) -> Path:
    (folder / name).write_text(yaml.safe_dump(SEARCH | changes))
    return folder / name


@pytest.fixture(scope="module")
def unbroken(folder: Path) -> evomerge.Run:
    return searched(folder / "search.yaml", folder / "run")


def library(folder: Path) -> Any:
    with tiny.quiet():
        return sentence_transformers.SentenceTransformer(str(folder), device="cpu")


def measured(scores: Scores, keys: Iterable[str]) -> dict[str, float]:
    return {key: scores.aggregates[key] for key in keys}


@pytest.mark.thorough
def test_killed_and_resumed_is_never_killed(
    folder: Path, unbroken: evomerge.Run, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    check_never_killed(folder / "search.yaml", run, unbroken.folder, 7)


@pytest.mark.thorough
def test_two_workers_give_the_same_bits(
    folder: Path, unbroken: evomerge.Run, tmp_path: Path
) -> None:
    file = write(folder, "two.yaml", executor={"kind": "processes", "workers": 2})
    searched(file, tmp_path / "run")
    assert events_of(tmp_path / "run") == events_of(unbroken.folder)


def test_the_export_is_an_encoder_with_the_recorded_scores(
    folder: Path, unbroken: evomerge.Run, tmp_path: Path
) -> None:
    out = unbroken.export(tmp_path / "model")
    card = (out / "README.md").read_text()
    assert "library_name: sentence-transformers" in card
    assert "pipeline_tag: sentence-similarity" in card
    assert "split: test\n" in card
    assert str(folder) not in card
    best = unbroken.winner
    assert best is not None
    recorded = best.scores("test")
    assert recorded is not None
    # `evaluate` scores the exported folder as the search scored the merge.
    again = evomerge.evaluate(out, unbroken.folder / "search.yaml")
    assert {key: item.value for key, item in again.items()} == measured(recorded, again)
    assert not again["sts pairs/spearman"].has_interval  # no mean over documents
    assert again["retrieval questions/ndcg@10"].has_interval
    # So does the library itself, on the same rows.
    model, ids = library(out), recorded.documents["sts pairs"]
    one, two = (model.encode([STS[i][f"sentence{n}"] for i in ids]) for n in (1, 2))
    similar = model.similarity_pairwise(one, two).numpy()
    theirs = spearmanr(similar, [STS[i]["score"] for i in ids]).statistic
    room = 12 / len(ids) ** 2 if near_ties(similar) else 1e-6
    assert recorded.aggregates["sts pairs/spearman"] == pytest.approx(theirs, abs=room)


def test_a_changed_file_stops_a_resume(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "all", ignore=shutil.ignore_patterns("run*"))
    file, run = tmp_path / "all" / "search.yaml", tmp_path / "all" / "run"
    searched(file, run, candidates=3)
    rows = tmp_path / "all" / "pairs.jsonl"
    rows.write_text(rows.read_text().replace('"score": 5', '"score": 6', 1))
    with pytest.raises(ConfigError, match="Task 'sts pairs' has changed since the run began"):
        evomerge.resume(run, candidates=5)


def test_another_file_can_supply_the_documents_of_a_split(folder: Path) -> None:
    other = folder / "data" / "pairs.jsonl"
    other.write_text("\n".join(json.dumps({**row, "score": -row["score"]}) for row in STS[:40]))
    changes = {
        "objectives": [{"encoder": "sts", "file": "pairs.jsonl"}],
        "evaluation": {
            "search": {"documents": 30},
            "validation": {"documents": 10, "finalists": 2},
            "test": {"documents": "all", "tasks": {"sts pairs": "data/pairs.jsonl"}},
        },
    }
    checked = prepare(load(write(folder, "other.yaml", **changes)), folder)
    tasks = checked.evaluator.tasks_of("test")
    assert tasks.info.tasks["sts pairs"].source == "sts data/pairs"
    used = {*checked.splits["search"]["sts pairs"], *checked.splits["validation"]["sts pairs"]}
    # Equal rows are the same document, whichever file they are in.
    assert set(checked.splits["test"]["sts pairs"]) == set(range(40)) - used


def test_differing_modules_are_named_and_parents_are_scored_as_they_are(
    folder: Path, tmp_path: Path
) -> None:
    one = folder / "one"
    tiny.make_encoder(folder / "cls", seed=2, near=one, pooling="cls", length=12)
    file = write(folder, "differ.yaml", parents=["one", "cls"])
    lines = evomerge.validate(file)["warnings"]
    (told,) = [line for line in lines if "is not like the merges" in line]
    assert all(key in told for key in ("Pooling.pooling_mode", "prompts", "max_seq_length"))
    run = searched(file, tmp_path / "run", candidates=4)
    parent = next(item for item in run.history.candidates if item.label == str(folder / "cls"))
    alone = evomerge.evaluate(folder / "cls", run.folder / "search.yaml")
    recorded = parent.scores("test")
    assert recorded is not None and parent.as_itself == {"validation", "test"}
    assert {key: item.value for key, item in alone.items()} == measured(recorded, alone)


@pytest.mark.parametrize("dense", [0, 8])
def test_a_parent_without_modules_takes_those_of_the_host(dense: int, tmp_path: Path) -> None:
    one = tiny.make_encoder(tmp_path / "one", dense=dense)
    plain = tiny.make_encoder(tmp_path / "plain", seed=2, near=one, dense=dense)
    for name in ("modules.json", "1_Pooling/config.json"):
        (plain / name).unlink()
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, STS)))
    changes = {
        "objectives": [{"encoder": "sts", "file": "pairs.jsonl"}],
        "parents": ["one", "plain"],
    }
    file = write(tmp_path, **changes)
    told = evomerge.validate(file)
    (line,) = [line for line in told["warnings"] if "modules.json" in line]
    lent = "modules.json and 2_Dense.linear" if dense else "modules.json"
    assert f"the body of plain (BertModel) is merged; the {lent} of the host one takes" in line
    assert told["encoder"].endswith("merged: the transformer")
    run = searched(file, tmp_path / "run", candidates=3)
    number = next(item.number for item in run.history.candidates if item.label == str(plain))
    model, host = library(run.export(tmp_path / "model", number)), library(one)
    assert [type(module) for module in model] == [type(module) for module in host]
    if dense:
        assert model[2].linear.weight.equal(host[2].linear.weight)
    assert not np.allclose(model.encode(["w1 w2"]), host.encode(["w1 w2"]))
    backwards = write(tmp_path, **changes | {"parents": ["plain", "one"]})
    with pytest.raises(CheckpointError, match=r"has no modules\.json.*space\.host"):
        evomerge.validate(backwards)
    with_base = {"base": "plain", "parents": ["one"], "space": {"host": "one"}}
    again = searched(write(tmp_path, **changes | with_base), tmp_path / "of-base", candidates=4)
    assert {item.status for item in again.history.candidates} == {"scored"}


def test_the_base_of_encoders_may_be_a_chat_model(tmp_path: Path) -> None:
    tiny.make(tmp_path / "chat", "llama")
    one = tiny.make_encoder(tmp_path / "one", architecture="llama", dense=0)
    tiny.make_encoder(tmp_path / "two", architecture="llama", dense=0, seed=2, near=one)
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, STS)))
    changes = {
        "base": "chat",
        "space": {"kind": "parameters", "host": "one", "method": "task_arithmetic", "groups": 1},
        "objectives": [{"encoder": "sts", "file": "pairs.jsonl"}],
    }
    file = write(tmp_path, **changes)
    run = searched(file, tmp_path / "run", candidates=3)
    assert all(item.fitness is not None for item in run.history.candidates)
    out = run.export(tmp_path / "model", 2)
    names = ("model", "one", "two", "chat")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in names]
    assert "lm_head.weight" in weights[3] and not any("lm_head" in name for name in weights[0])
    key = "layers.1.mlp.up_proj.weight"
    merged, a, b, base = [w.get(key, w.get(f"model.{key}")).numpy() for w in weights]
    assert library(out).encode(["w1 w2"]).shape == (1, 16)
    shares = np.linalg.lstsq(
        np.stack([(a - base).ravel(), (b - base).ravel()], 1), (merged - base).ravel(), rcond=None
    )
    assert shares[0] == pytest.approx([shares[0][0]] * 2, abs=1e-4) and shares[1][0] < 1e-8


def test_validate_says_what_an_encoder_is(folder: Path) -> None:
    told = evomerge.validate(folder / "search.yaml")
    assert told["encoder"] == (
        "mean pooling, Dense, Normalize; 8 dimensions; texts of up to 16 tokens; merged: the "
        "transformer and 2_Dense"
    )
    assert told["fewer_documents"].startswith("off, since")


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a file": (
        {"objectives": [{"encoder": "sts"}]},
        "`objectives[0]` has the `encoder` sts without a `file`",
    ),
    "a task too": (
        {"objectives": [{"encoder": "sts", "file": "pairs.jsonl", "task": "x"}]},
        "has the `task` 'x' and the `encoder` sts",
    ),
    "no encoder": (
        {"objectives": [{"file": "pairs.jsonl", "task": "x"}]},
        "has the `file` 'pairs.jsonl' without an `encoder` or `classifier`",
    ),
    "another kind": ({"objectives": [{"encoder": "st", "file": "x"}]}, "Did you mean 'sts'?"),
    "one score only": (
        {"objectives": [{"encoder": "sts", "file": "equal.jsonl"}]},
        "evaluation.search: the documents of 'sts equal' (12) have one score, 3, and",
    ),
    "few shots": (
        {"evaluation": {"fewshot": 2}},
        "`evaluation.fewshot` is 2, which only tasks of lm-eval have, but 'sts pairs' has rows of",
    ),
    "how texts are generated": (
        {"evaluation": {"generation": {"max_gen_toks": 2}}},
        "`evaluation.generation` is {'max_gen_toks': 2}, which only tasks of lm-eval have",
    ),
    "a split of lm-eval": (
        {"evaluation": {"search": {"task_split": "training"}}},
        "`evaluation.search.task_split` is 'training', which only tasks of lm-eval have",
    ),
    "a metric": (
        {"objectives": [{"encoder": "sts", "file": "pairs.jsonl", "metric": "accuracy"}]},
        "task 'sts pairs' has no metric 'accuracy'; it has pearson, spearman",
    ),
    "gradients": (
        {"optimizer": {"name": "gradient"}},
        "`optimizer.name` is gradient, but sts pairs/spearman has no reference answers to learn",
    ),
    "files of one name": (
        {
            "objectives": [
                {"encoder": "sts", "file": "pairs.jsonl"},
                {"encoder": "sts", "file": "data/pairs.jsonl", "metric": "pearson"},
            ]
        },
        "would be called 'sts pairs'; rename one of the files",
    ),
    "a missing file": (
        {"objectives": [{"encoder": "sts", "file": "gone.jsonl"}]},
        "there is no file 'gone.jsonl'",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_search_file_is_one_sentence(folder: Path, case: str) -> None:
    changes, words_of = REFUSED[case]
    with pytest.raises(ConfigError) as caught:
        evomerge.validate(write(folder, "refused.yaml", **changes))
    assert words_of in str(caught.value)
