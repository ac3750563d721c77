"""Searches by gradients: the same with any width, killed anywhere or not; refusals; a real one."""

from __future__ import annotations

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from killed import searched
from scripted import OBJECTIVES, ScriptedExecutor, outcome_of, search, space, trajectory
from search_run import SMALL, events_of, evomerge, write_search

from evomerge import resume
from evomerge.errors import SearchError
from evomerge.evaluation.inference.rows import ANY, Form
from evomerge.execute.protocol import Job
from evomerge.optimize.descent import Reached
from evomerge.scores import Scores
from evomerge.searching.ranking import WeightedSum
from evomerge.strategy.gradient import GradientStrategy
from evomerge.strategy.lessons import Lessons

DOCUMENTS = {"task": range(100)}
SPACE = space()


def result_of(job: Job):
    """Walk a leg to weights near 0.7, which depend on what is learned, or score a candidate."""
    if job.leg is None:
        outcome = outcome_of(job)
        if isinstance(outcome, Scores):  # documents of several candidates, so their order counts
            ids = [(7 * job.candidate + step) % 100 for step in range(30)]
            right = {"task": dict.fromkeys(ids, f"by {job.candidate}")}
            outcome = replace(outcome, right=right)
        return outcome
    descent = job.leg.descent
    texts = "".join(job.leg.answers.get("task", {}).values())
    for batch in job.leg.batches:
        wanted = 0.6 + (sum(batch["task"]) + sum(map(ord, texts))) % 97 / 500
        slope = [2 * (value - wanted) for value in descent.genome]
        descent = descent.step(slope, SPACE.genes, rate=job.leg.rate, steps=job.leg.steps)
    losses = (1.0,) * len(job.leg.batches)
    return Reached(descent, losses, 1 / descent.done, {ANY: Form(delimiter=False)})


def descents(count: int = 3) -> GradientStrategy:
    values = WeightedSum(OBJECTIVES).values
    return GradientStrategy(
        SPACE, Lessons("reference", DOCUMENTS, 3), values, steps=20, descents=count, seed=3
    )


def successes() -> GradientStrategy:
    lessons = Lessons("successes", DOCUMENTS, 3, generated={"task"})
    return GradientStrategy(SPACE, lessons, WeightedSum(OBJECTIVES).values, steps=20, descents=3)


def executor(seed: int, width: int = 1, dies_after: int | None = None) -> ScriptedExecutor:
    ends = random.Random(seed)
    return ScriptedExecutor(width, ends, 0.1, dies_after, score=result_of)


def run_of(path: Path, make, seed: int, width: int, dies_after: int | None = None):
    return search(path, executor(seed, width, dies_after), candidates=24, searched=SPACE, make=make)


@pytest.mark.parametrize("make", [descents, successes])
def test_a_search_is_the_same_with_any_width_and_killed_anywhere(make, tmp_path):
    whole = trajectory(run_of(tmp_path / "whole", make, 0, 1))
    assert any("descent" in item[3] for item in whole[:-1])
    for seed in range(6):
        path, history = tmp_path / str(seed), None
        while history is None:
            dies_after = random.Random(seed).randrange(1, 9)
            try:
                history = run_of(path, make, seed, 1 + seed % 4, dies_after)
            except SearchError:
                continue
        assert trajectory(history) == whole


def test_a_leg_is_walked_once_and_knows_the_form_that_the_first_one_found(tmp_path):
    history = run_of(tmp_path / "run", descents, 1, 4)
    legs = history.legs
    assert len(legs) == len({(leg["candidate"], leg["place"]) for leg in legs})
    assert {leg["forms"][ANY]["delimiter"] for leg in legs} == {False}


def small(**optimizer) -> dict:
    return {
        **SMALL,
        "optimizer": optimizer,
        "budget": {"candidates": 6},
        "executor": {"order": "generation"},
    }


@pytest.mark.thorough
@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "gradient"},
        {"name": "gradient", "loss": "successes"},
        {"name": "gradient", "loss": "experts"},
    ],
)
def test_a_real_search_goes_on_in_processes_where_it_was_cut(optimizer, tmp_path):
    objectives = [{"task": "zoo_l2", "metric": "exact_match"}] if "loss" in optimizer else []
    data = {"objectives": [*SMALL["objectives"], *objectives]}
    file = write_search(tmp_path, **small(**optimizer, steps=20) | data)
    whole = searched(file, tmp_path / "whole")
    lines = (whole.folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    (leg,) = [n for n, line in enumerate(lines) if b'"event":"leg"' in line][:1]
    shutil.copytree(whole.folder, tmp_path / "cut")
    (tmp_path / "cut" / "journal.jsonl").write_bytes(b"".join(lines[: leg + 1]))
    cut = resume(tmp_path / "cut", kind="processes", workers=2, progress=False)
    assert events_of(cut.folder) == events_of(whole.folder)
    theirs = [item.fitness for item in whole.history.candidates]
    assert max(value for value in theirs[4:] if value is not None) > max(theirs[:3])


@pytest.mark.thorough
def test_the_descents_of_a_front_prefer_different_objectives(tmp_path):
    data = small(name="gradient", steps=20) | {"mode": "pareto", "budget": {"candidates": 9}}
    objectives = [{"task": task, "metric": "exact_match"} for task in ("zoo_l2", "zoo_maths")]
    file = write_search(tmp_path, **data | {"objectives": objectives})
    candidates = searched(file, tmp_path / "run").history.candidates
    points = {
        item.origin["descent"]: item.scores("search").aggregates
        for item in candidates
        if "descent" in item.origin
    }
    assert points[1]["zoo_l2/exact_match"] > points[2]["zoo_l2/exact_match"]
    assert points[1]["zoo_maths/exact_match"] < points[2]["zoo_maths/exact_match"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"space": {"kind": "parameters", "method": "linear", "knobs": {"weight": 1.0}}}, None),
        ({"executor": {"order": "arrival"}}, "but `executor.order` is arrival"),
    ],
)
def test_what_has_no_slope_is_refused(change, sentence, tmp_path):
    data = {**small(name="gradient"), **change}
    said = evomerge("validate", write_search(tmp_path, **data), code=2).stderr
    assert (sentence or "nothing to search") in said


@pytest.mark.parametrize("loss", ["reference", "experts"])
def test_a_document_without_an_answer_is_found_before_the_search(loss, tmp_path):
    """With experts as teachers, none is needed."""
    rows = [{"prompt": f"{n}", "answer": "" if n == 17 else "7"} for n in range(24)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    task = {
        "task": "answers",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "prompt",
        "doc_to_target": "answer",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 4},
        "metric_list": [{"metric": "exact_match"}],
    }
    (tmp_path / "answers.yaml").write_text(json.dumps(task))
    data = small(name="gradient", loss=loss) | {
        "objectives": [{"task": "answers", "metric": "exact_match"}],
        "evaluation": {
            "include": [str(tmp_path)],
            "search": {"documents": 22},
            "validation": {"documents": 1},
            "test": {"documents": 1},
            "racing": {"enabled": False},
        },
    }
    done = evomerge(
        "validate", write_search(tmp_path, **data), code=2 if loss == "reference" else 0
    )
    assert ("a document of task 'answers' has no reference answer" in done.stderr) == (
        loss == "reference"
    )


def test_keys_of_descents_belong_to_descents_only(tmp_path):
    said = evomerge("validate", write_search(tmp_path, **small(name="cma", steps=5)), code=2).stderr
    assert "has `steps`, which only a descent has" in said
