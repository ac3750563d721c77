"""Tasks of mteb, whose data sets are local folders here: their main scores are mteb's own."""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
import yaml

import evomerge
from evomerge.config.schema import parse
from evomerge.errors import ConfigError, InputError
from evomerge.merging.backend import load, tokenizer_of
from evomerge.models.checkpoint import Checkpoint
from evomerge.setup.tasks import find_objectives, load_tasks

mteb = pytest.importorskip("mteb")


def words(*numbers: int) -> str:
    return " ".join(f"w{number % 44}" for number in numbers)


ROWS: dict[str, dict[str, list[dict[str, Any]]]] = {
    "sts": {
        "test": [
            {
                "sentence1": words(i, i + 1),
                "sentence2": words(i * i, 3, i // 44),
                "score": i * 5 % 7,
            }
            for i in range(60)
        ]
    },
    "retrieval": {
        "corpus": [
            {"id": f"d{i}", "title": words(i) if i % 2 else "", "text": words(i, 5, i * i, i // 44)}
            for i in range(60)
        ],
        "queries": [{"id": f"q{i}", "text": words(i, i + 2)} for i in range(40)],
        "qrels": [
            {"query-id": f"q{i}", "corpus-id": f"d{j}", "score": 1}
            for i in range(40)
            for j in {i, i * 7 % 60}
        ],
    },
    "classification": {
        part: [{"text": words(i, 3 * i, add), "label": int(i * i % 5 > 1)} for i in range(60)]
        for part, add in (("train", 3), ("test", 11))
    },
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two encoders, and the files of the data sets."""
    folder = tmp_path_factory.mktemp("mteb")
    one = tiny.make_encoder(folder / "one", prompts={"query": "w1 ", "document": "w2 w3 "})
    tiny.make_encoder(folder / "two", seed=1, near=one)
    for name, parts in ROWS.items():
        (folder / name).mkdir()
        for part, rows in parts.items():
            (folder / name / f"{part}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    configs = [
        {"config_name": name, "data_files": [{"split": "test", "path": f"{name}.jsonl"}]}
        for name in ROWS["retrieval"]
    ]
    text = f"---\n{yaml.safe_dump({'configs': configs})}---\n"
    (folder / "retrieval" / "README.md").write_text(text)
    return folder


@pytest.fixture(autouse=True)
def registered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Tasks of mteb's classes, whose data sets are the folders."""
    from mteb.abstasks import AbsTaskClassification, AbsTaskRetrieval, AbsTaskSTS
    from mteb.abstasks.task_metadata import TaskMetadata

    kinds = {
        "STS": (AbsTaskSTS, "cosine_spearman"),
        "Retrieval": (AbsTaskRetrieval, "ndcg_at_10"),
        "Classification": (AbsTaskClassification, "accuracy"),
    }
    registry = sys.modules["mteb.get_tasks"]._TASKS_REGISTRY  # type: ignore[attr-defined]
    for kind, (above, score) in kinds.items():
        metadata = TaskMetadata(
            name=f"Tiny{kind}",
            description="a tiny task",
            dataset={"path": str(folder / kind.lower()), "revision": "1"},
            type=kind,
            eval_langs=["eng-Latn"],
            main_score=score,
        )
        monkeypatch.setitem(
            registry, f"Tiny{kind}", type(f"Tiny{kind}", (above,), {"metadata": metadata})
        )
    yield


def search(folder: Path, *tasks: str, **changes: Any) -> dict[str, Any]:
    return {
        "parents": [str(folder / "one"), str(folder / "two")],
        "dtype": "float32",
        "space": {"kind": "parameters", "method": "linear", "knobs": {"weight": [0, 1]}},
        "objectives": [{"mteb": name} for name in tasks],
        "evaluation": {
            "search": {"documents": 5},
            "validation": {"documents": 5},
            "test": {"documents": "all"},
        },
        "budget": {"candidates": 4},
    } | changes


METRICS = {"STS": "spearman", "Retrieval": "ndcg@10", "Classification": "accuracy"}


@pytest.mark.parametrize("kind", METRICS)
def test_the_main_score_is_that_of_mteb(kind: str, folder: Path) -> None:
    from sentence_transformers import SentenceTransformer

    task = f"Tiny{kind}"
    config = parse(search(folder, task), "search")
    evaluator = load_tasks(config)
    (objective,) = find_objectives(config, evaluator)
    assert objective.key == f"mteb {task}/{METRICS[kind]}"
    opened = Checkpoint.open(folder / "one", "one")
    model = load(opened, "cpu", causal=False, modules=opened)
    function: Any = evaluator.default.calling(objective.task)
    values = function(model, tokenizer_of(opened), range(function.info.documents))
    ours = function.aggregate(objective.metric, values[objective.metric])
    with warnings.catch_warnings(), tiny.quiet():
        warnings.simplefilter("ignore")
        theirs = mteb.evaluate(
            SentenceTransformer(str(folder / "one"), device="cpu"),
            mteb.get_task(task),
            cache=None,
            show_progress_bar=False,
        )
    assert ours == pytest.approx(theirs.task_results[0].get_score(), abs=1e-5)


def test_a_search_over_tasks_of_mteb(folder: Path, tmp_path: Path) -> None:
    given = search(folder, "TinySTS", "TinyRetrieval")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run = evomerge.search(given, tmp_path / "run", progress=False)
        assert all(item.fitness is not None for item in run.history.candidates)
        out, best = run.export(tmp_path / "model"), run.winner
        assert best is not None
        recorded = best.scores("test")
        again = evomerge.evaluate(out, run.folder / "search.yaml")
    assert recorded is not None
    assert len(again) == 2
    assert {key: item.value for key, item in again.items()}.items() <= recorded.aggregates.items()
    rows = folder / "sts" / "test.jsonl"
    kept = rows.read_text()
    rows.write_text(kept.replace('"score": 5', '"score": 6', 1))
    try:
        with pytest.raises(ConfigError, match="Task 'mteb TinySTS' has changed since the run"):
            evomerge.resume(run.folder, candidates=6)
    finally:
        rows.write_text(kept)


REFUSED = {
    "TinySTSs": "mteb has no task 'TinySTSs'",
    "TinySTS/de": "has to name a subset of mteb's TinySTS, as TinySTS/default; it has default",
    "STS17": "has to name a subset of mteb's STS17, as STS17/",
    "TwentyNewsgroupsClustering": "of the type Clustering, and plain texts of the types STS, Retr",
    "STS12": "mteb cannot load the data of 'STS12'",
}


@pytest.mark.parametrize("task", REFUSED)
def test_what_cannot_be_scored_is_one_sentence(task: str, folder: Path) -> None:
    with pytest.raises(InputError) as caught:
        evomerge.validate(search(folder, task))
    assert REFUSED[task] in str(caught.value) and "\n" not in str(caught.value)
