"""`evomerge validate --time`: a candidate is scored for real, and the search's time follows."""

import json
from dataclasses import replace

import pytest
from lm_tasks import write_task
from search_run import problem_of, search_over, write_search
from tiny import OTHER, copy_of

from evomerge.__main__ import run
from evomerge.config.schema import load
from evomerge.errors import SearchError
from evomerge.problem.preflight import summary
from evomerge.problem.runs import prepare
from evomerge.searching.estimate import CostProbe, estimate, try_candidate

MEASURED = CostProbe(
    start_seconds=10.0,
    build_seconds=0.5,
    evaluate_seconds=1.5,
    documents=24,
    peak_bytes={"process": 10**9},
    shared_bytes=4 * 10**8,
)
"""A candidate that took 0.5 seconds to merge and 1.5 to score."""


def problem(folder, *changes):
    return prepare(load(write_search(folder), changes), folder)


def test_the_estimate_adds_up(tmp_path):
    """22 candidates on 24 documents; 5 models on 16 of validation; 4 and the base on 32 of test."""
    found = estimate(problem(tmp_path), MEASURED)
    assert found.search_seconds == 22 * 2.0
    assert found.final_seconds == pytest.approx(
        5 * (0.5 + 1.5 * 16 / 24) + 5 * (0.5 + 1.5 * 32 / 24)
    )
    assert found.hours == (10 + found.search_seconds + found.final_seconds) / 3600
    words = found.in_words()
    assert words["one candidate"] == "2 s (0.5 s to merge, 1.5 s to score)"
    assert words["memory of a machine"] == "about 1 GB"


def test_a_line_through_two_times_gives_the_seconds_of_a_document():
    """1.5 seconds for 24 documents and 0.9 for 4: 0.78 before the first, and 0.03 for each."""
    two = replace(MEASURED, part=4, part_seconds=0.9)
    assert two.document_seconds == pytest.approx(0.03)
    assert two.before_seconds == pytest.approx(0.78)
    assert two.seconds_for(50) == pytest.approx(0.5 + 0.78 + 1.5)
    assert replace(two, part_seconds=1.6).document_seconds == 0  # a disturbance
    assert replace(two, part_seconds=0.1).before_seconds == pytest.approx(0)
    assert two.candidate_seconds == 2.0
    assert replace(two, is_fresh=True).candidate_seconds == pytest.approx(1.4)


def test_workers_share_candidates_and_files(tmp_path):
    two = ("executor.kind=processes", "executor.workers=2")
    found = estimate(problem(tmp_path, *two), MEASURED)
    assert found.search_seconds == 12 * 2.0
    assert found.machine_bytes == 16 * 10**8


@pytest.mark.parametrize(
    ("setting", "rounds"),
    [("optimizer.name=gp", 10), ("optimizer.name=cma", 6), ("executor.order=arrival", 5)],
)
def test_a_generation_gives_no_more_workers_something_to_do(tmp_path, setting, rounds):
    """3 baselines and 19 candidates on four workers: two, ten or four at a time."""
    four = ("executor.kind=processes", "executor.workers=4", setting)
    assert estimate(problem(tmp_path, *four), MEASURED).search_seconds == (1 + rounds) * 2.0


def test_hours_bound_the_candidates_and_a_target_alone_gives_no_end(tmp_path):
    found = estimate(problem(tmp_path, "budget.hours=0.01"), MEASURED)
    assert found.candidates == 13  # of 36 seconds, 10 to start
    file = write_search(tmp_path, budget={"target": 0.5})
    found = estimate(prepare(load(file), tmp_path), MEASURED)
    assert (found.candidates, found.hours) == (None, None)
    assert "whole search" not in found.in_words()


def failing(model, tokenizer, documents):
    return [1 / (len(documents) == 1)]


failing.documents = 80


def test_a_candidate_that_fails_is_an_error(tmp_path):
    objectives = [{"task": f"{__name__}:failing", "metric": "score"}]
    file = write_search(tmp_path, objectives=objectives)
    with pytest.raises(SearchError, match=r"tried failed in 'evaluate': .*division by zero"):
        run(["validate", str(file), "--time"])


@pytest.mark.parametrize("form", [None, {"delimiter": True, "end": "stop"}])
def test_a_candidate_is_scored_a_step_is_made_and_no_run(form, tmp_path, capsys):
    file = write_search(tmp_path, optimizer={"name": "gradient", "steps": 10, "form": form})
    assert run(["validate", str(file), "--time", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["time"]
    assert (found["workers"], found["candidates"]) == (1, 22)
    assert found["candidate_seconds"] == found["build_seconds"] + found["evaluate_seconds"] > 0
    assert found["hours"] > 22 * found["candidate_seconds"] / 3600
    assert 10**8 < found["machine_bytes"] == found["peak_bytes"]["process"] < 10**11
    assert found["step_seconds"] > 0
    preferred = {"zoo_l2_maths": {"delimiter": True, "end": "token"}}
    assert found["forms"] == ({"*": form} if form else preferred)
    assert [item.name for item in tmp_path.iterdir()] == ["search.yaml"]


REGEX = [{"metric": "exact_match", "regexes_to_ignore": [","]}]


@pytest.mark.parametrize(
    ("change", "suits"),
    [
        ("objectives=[{task: zoo_l2_maths, metric: exact_match}, {task: zoo_facts}]", True),
        ("objectives=[{task: zoo_steps, metric: exact_match}]", False),  # a filter cuts the answer
        ("objectives=[{task: cut, metric: exact_match}]", False),  # the metric does
        ("objectives=[{task: zoo_l2_maths, metric: nll}]", False),
        ("constraints=[{task: zoo_facts, at_least: 0.1}]", False),
        ("space.groups=1", False),  # four genes
        ("space.method=[linear, task_arithmetic]", False),
    ],
)
def test_gradients_are_named_where_right_answers_are_whole_references(tmp_path, change, suits):
    write_task(tmp_path, "cut", [{"q": f"{i}", "a": "b"} for i in range(80)], metric_list=REGEX)
    include = f"evaluation.include=[zoo:tasks, {tmp_path}]"
    checked = problem(tmp_path, include, change)
    assert ("gradients" in summary(checked)) is suits
    found = estimate(checked, replace(MEASURED, step_seconds=3.0))
    if suits:
        assert (found.candidates, found.by_gradients.candidates) == (22, 9)
        assert found.search_seconds == 22 * 2.0
        assert found.by_gradients.search_seconds == 9 * 2.0 + 6 * 10 * 3.0
    else:
        assert found.by_gradients is None


@pytest.mark.parametrize("is_on", [True, False])
def test_the_parents_are_scored_with_chat_template_and_without(tmp_path, is_on):
    """A template with which a parent that knows the task answers wrongly."""
    parents = [copy_of(name, tmp_path / name, OTHER) for name in ("language", "maths", "base")]
    checked = problem_of(search_over(parents[:2], parents[2], chat=is_on))
    probe = try_candidate(checked, lambda said: None)
    assert probe.chat_template["with"] < 0.5 and probe.chat_template["without"] == 1.0
    assert "with it and 1 without it" in estimate(checked, probe).in_words()["chat template"]
