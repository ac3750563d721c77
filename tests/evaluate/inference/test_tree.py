"""Scoring candidates together: every distinct block once, and the same bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from evomerge import zoo
from evomerge.config.schema import parse
from evomerge.evaluate.inference.tree import Forks, visits
from evomerge.execute.protocol import Job
from evomerge.execute.tree import run_together, trail
from evomerge.recipe import Recipe
from evomerge.scores import Failure, Scores
from evomerge.setup.problem import prepare
from evomerge.space.paths.path import layers_of, parse_path

trails = st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=6).map(tuple), max_size=12)


@given(trails)
def test_every_distinct_beginning_is_computed_once(trails: list[tuple[str, ...]]) -> None:
    turns = visits(trails)
    assert sorted(turn.number for turn in turns) == list(range(len(trails)))
    nodes = {trail[: depth + 1] for trail in trails for depth in range(len(trail))}
    assert sum(len(trails[turn.number]) - turn.start for turn in turns) == len(nodes)


@given(trails)
def test_a_state_is_held_from_its_making_to_its_last_use(trails: list[tuple[str, ...]]) -> None:
    held: dict[int, tuple[str, ...]] = {}
    for turn in visits(trails):
        path = trails[turn.number]
        if turn.start:
            assert held[turn.start] == path[: turn.start]
        held |= {depth: path[:depth] for depth in turn.keep}
        held = {depth: state for depth, state in held.items() if depth in turn.needed}
        assert set(held) == turn.needed  # nothing is missing, nothing lies about
    assert not held


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
PATHS = ("A0-5", "A0-3 B4-5", "A0-3 B4 A5", "A0-1x0.9 A2-5", "A0-5 B3", "A0-3 B4-5", "B0-5", "A0-3")


@pytest.fixture(scope="module")
def setup() -> Any:
    return prepare(parse(SEARCH, "search.yaml"), Path.cwd())


@pytest.fixture(scope="module")
def worker(setup: Any) -> Any:
    return setup.worker()


def jobs(setup: Any) -> list[Job]:
    legend = {"A": "zoo:language", "B": "zoo:maths"}
    like = next(iter(setup.space.baselines().values()))
    return [Job(number, _routed(like, text, legend)) for number, text in enumerate(PATHS)]


def _routed(like: Recipe, text: str, legend: dict[str, str]) -> Recipe:
    return replace(like, layers={"model.layers": layers_of(parse_path(text, legend))})


def answers(outcome: Any) -> Any:
    assert isinstance(outcome, Scores)
    return outcome.values, outcome.aggregates, outcome.documents


@pytest.mark.parametrize("memory", [10**9, 200_000, 0])
def test_together_gives_the_bits_of_one_by_one(setup: Any, worker: Any, memory: int) -> None:
    todo = jobs(setup)
    alone = {job.number: answers(worker(job)) for job in todo}
    forks = Forks(memory)
    found = {job.number: answers(out) for job, out in run_together(worker, todo, forks)}
    assert found == alone
    distinct = {trail(job.recipe)[: n + 1] for job in todo for n in range(len(trail(job.recipe)))}
    blocks = sum(len(trail(job.recipe)) for job in todo)
    batches = (forks.applied + forks.spared) / blocks
    assert batches == int(batches) > 0
    if memory == 10**9:
        assert forks.applied == len(distinct) * batches
    else:
        assert forks.applied > len(distinct) * batches
        assert (forks.spared == 0) == (memory == 0)


def test_models_are_left_as_they_were(setup: Any, worker: Any) -> None:
    todo = jobs(setup)
    list(run_together(worker, todo, Forks(10**9)))
    model = worker.builder.apply(todo[0].recipe)
    assert all("forward" not in vars(module) for module in model.modules())
    assert not model._forward_pre_hooks


def test_one_failed_candidate_fails_alone(setup: Any, worker: Any) -> None:
    todo = jobs(setup)
    broken = replace(todo[1].recipe, layers={"model.layers": layers_of(
        parse_path("A0-3 B4x0.0000001", {"A": "zoo:language", "B": "zoo:maths"}))})  # fmt: skip
    todo[1] = Job(1, broken)
    found = {job.number: outcome for job, outcome in run_together(worker, todo, Forks(10**9))}
    assert isinstance(found.pop(1), Failure)
    assert all(isinstance(outcome, Scores) for outcome in found.values())


def test_a_beginning_that_documents_share_is_no_fork_and_spoils_none(tmp_path: Path) -> None:
    """Its keys and values are every candidate's own, whatever blocks are spared behind it."""
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
    setup = prepare(parse(SEARCH | search, "search.yaml"), tmp_path)
    worker = setup.worker()
    assert worker.evaluator.forward.shared
    todo, forks = jobs(setup), Forks(10**9)
    alone = {job.number: answers(worker(job)) for job in todo}
    found = {job.number: answers(out) for job, out in run_together(worker, todo, forks)}
    assert found == alone and forks.spared > 0
