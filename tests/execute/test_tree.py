"""Scoring a generation together runs each block once and gives the scores of one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from paths import parse_path

from evomerge import zoo
from evomerge.config.schema import parse
from evomerge.evaluation.inference.tree import PrefixCache
from evomerge.execute.protocol import Job
from evomerge.execute.tree import as_tree, block_keys
from evomerge.execute.worker import Worker
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Outcome, Scores
from evomerge.setup.checked import CheckedSearch
from evomerge.setup.runs import prepare
from evomerge.setup.worker import make_worker
from evomerge.space.paths.path import layers_of

SEARCH = {
    "parents": ["zoo:language", "zoo:maths"],
    "dtype": "float32",
    "space": {"kind": "dataflow"},
    "objectives": [
        {"task": "zoo_l2_maths_mc", "metric": "acc"},
        {"task": "zoo_l2_maths", "metric": "exact_match"},
    ],
    "evaluation": {
        "include": ["zoo:tasks"],
        "search": {"documents": 24},
        "validation": {"documents": 4, "finalists": 1},
        "test": {"documents": 4},
    },
}
LEGEND = {"A": "zoo:language", "B": "zoo:maths"}
PATHS = ("A0-5", "A0-3 B4-5", "A0-3 B4 A5", "A0-1x0.9 A2-5", "A0-5 B3", "A0-3 B4-5", "B0-5", "A0-3")


@pytest.fixture(scope="module")
def problem() -> CheckedSearch:
    return prepare(parse(SEARCH, "search.yaml"), Path.cwd())


@pytest.fixture(scope="module")
def worker(problem: CheckedSearch) -> Worker:
    return make_worker(problem)


def routed(problem: CheckedSearch, text: str) -> Recipe:
    like = next(iter(problem.space.baselines().values()))
    return replace(like, layers={"model.layers": layers_of(parse_path(text, LEGEND))})


def jobs(problem: CheckedSearch) -> list[Job]:
    return [Job(n, n, routed(problem, text)) for n, text in enumerate(PATHS)]


def run_tree(worker: Worker, todo: list[Job], forks: PrefixCache) -> dict[int, Outcome]:
    return {job.id: outcome for job, outcome in as_tree(worker, forks)(todo)}


def answers(outcome: Outcome) -> Any:
    assert isinstance(outcome, Scores)
    return outcome.values, outcome.aggregates, outcome.documents


@pytest.mark.parametrize("memory", [10**9, 200_000, 0])
def test_scores_together_and_one_by_one_are_equal(
    problem: CheckedSearch, worker: Worker, memory: int
) -> None:
    todo = jobs(problem)
    alone = {job.id: answers(worker(job)) for job in todo}
    forks = PrefixCache(memory)
    found = {number: answers(out) for number, out in run_tree(worker, todo, forks).items()}
    assert found == alone
    distinct = {
        block_keys(job.recipe)[: n + 1] for job in todo for n in range(len(block_keys(job.recipe)))
    }
    blocks = sum(len(block_keys(job.recipe)) for job in todo)
    batches = (forks.applied + forks.skipped) / blocks
    assert batches == int(batches) > 0
    if memory == 10**9:
        assert forks.applied == len(distinct) * batches
    else:
        assert forks.applied > len(distinct) * batches
        assert (forks.skipped == 0) == (memory == 0)


def test_models_are_left_as_they_were(problem: CheckedSearch, worker: Worker) -> None:
    todo = jobs(problem)
    run_tree(worker, todo, PrefixCache(10**9))
    model = worker.build(todo[0].recipe)
    assert all("forward" not in vars(module) for module in model.modules())
    assert not model._forward_pre_hooks


def test_one_failed_candidate_fails_alone(problem: CheckedSearch, worker: Worker) -> None:
    todo = jobs(problem)
    todo[1] = Job(1, 1, routed(problem, "A0-3 B4x0.0000001"))
    found = run_tree(worker, todo, PrefixCache(10**9))
    assert isinstance(found.pop(1), Failure)
    assert all(isinstance(outcome, Scores) for outcome in found.values())


def test_a_shared_prompt_prefix_works_together_with_forks(tmp_path: Path) -> None:
    """Each candidate computes its own keys and values of the prefix, even if blocks are skipped."""
    body = yaml.safe_load(
        (zoo.tasks_path() / "zoo_facts.yaml").read_text().replace("!function ", "")
    )
    rows = (zoo.tasks_path() / "zoo_facts.jsonl").read_text().splitlines()
    files = {name: str(tmp_path / f"{name}.jsonl") for name in ("shots", "test")}
    for path, lines in zip(files.values(), (rows[:6], rows[6:60]), strict=True):
        Path(path).write_text("\n".join(lines))
    del body["custom_dataset"]
    body |= {
        "task": "t_facts",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "fewshot_split": "shots",
        "fewshot_config": {"sampler": "first_n"},
    }
    (tmp_path / "t_facts.yaml").write_text(yaml.safe_dump(body))
    evaluation = {**SEARCH["evaluation"], "include": [str(tmp_path)], "fewshot": 6}
    search = {"objectives": [{"task": "t_facts", "metric": "acc"}], "evaluation": evaluation}
    problem = prepare(parse(SEARCH | search, "search.yaml"), tmp_path)
    worker = make_worker(problem)
    assert worker.evaluator.forward.shared
    todo, forks = jobs(problem), PrefixCache(10**9)
    alone = {job.id: answers(worker(job)) for job in todo}
    found = {number: answers(out) for number, out in run_tree(worker, todo, forks).items()}
    assert found == alone and forks.skipped > 0
