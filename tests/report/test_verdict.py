"""The verdict says no more than the intervals do."""

from __future__ import annotations

import pytest
from run_folders import append, asked, scores, told, write_run

from evomerge.report.verdict import verdict
from evomerge.report.view import View
from evomerge.run.history import outcome_fields
from evomerge.scores import Failure


def run_with(tmp_path, *, ours, parent, winner=2, split="test", **changes):
    """Return the view of a run whose merge and parent have so many right answers of 24."""
    events = [
        *(asked(0, "zoo:language"), told(0, scores(parent))),
        *(asked(1, "uniform"), told(1, scores(parent))),
        *(asked(2, genome=[0.5]), told(2, scores(ours))),
    ]
    if split is not None:
        for number, right in ((0, parent), (1, parent), (2, ours)):
            events.append(told(number, scores(right)) | {"event": "score", "split": split})
    events.append({"event": "winner", "candidate": winner})
    return View.of(write_run(tmp_path / "run", events, **changes))


@pytest.mark.parametrize(
    ("case", "works", "words"),
    [
        ({"ours": 20, "parent": 4}, True, "Yes: on the test documents"),
        ({"ours": 11, "parent": 10}, False, "No evidence of improvement: on the test documents"),
        ({"ours": 2, "parent": 20}, False, "is worse than zoo:language and uniform"),
        ({"ours": 9, "parent": 10, "winner": 0}, False, "no merge that was searched beats"),
        ({"ours": 20, "parent": 4, "split": None}, None, "Not known yet"),
    ],
)
def test_the_verdict(tmp_path, case, works, words):
    view = run_with(tmp_path, **case)
    found = verdict(view.table, view.best)
    assert found.works is works
    assert words in found.text


@pytest.mark.parametrize(
    ("missing", "ours", "works", "words"),
    [
        (0, 20, None, "No verdict: on the test documents the searched merge is better than uni"),
        (1, 20, None, "is better than zoo:language, but uniform has no scores"),
        (0, 2, False, "is worse than uniform"),
        (0, 10, False, "No evidence of improvement"),
    ],
)
def test_a_baseline_without_scores_is_named_and_there_is_no_yes(
    tmp_path, missing, ours, works, words
):
    """One that timed out is no baseline that was beaten."""
    run = run_with(tmp_path, ours=ours, parent=10).run
    failure = Failure("timeout", "It took longer than executor.timeout, 60 seconds.")
    event = {"event": "score", "candidate": missing, "split": "test"}
    append(run, [event | outcome_fields(failure)])
    view = View.of(run)
    found = verdict(view.table, view.best)
    assert found.works is works
    assert words in found.text
    name = ("zoo:language", "uniform")[missing]
    why = "no scores on the test documents (timeout: It took longer than executor.timeout, 60 sec"
    assert f"{name} has {why}" in found.text
    assert view.table.to_dict()["missing"][name].startswith("has no scores")


def test_baselines_that_all_failed_are_named(tmp_path):
    """It was said that the winner has no scores on the test documents, though it has."""
    run = run_with(tmp_path, ours=20, parent=10).run
    failure = Failure("timeout", "It took longer than executor.timeout, 60 seconds.")
    for number in (0, 1):
        event = {"event": "score", "candidate": number, "split": "test"}
        append(run, [event | outcome_fields(failure)])
    view = View.of(run)
    found = verdict(view.table, view.best)
    assert found.works is None
    why = "has no scores on the test documents (timeout: It took longer than executor.timeout, 60"
    assert found.text.startswith(f"No verdict: zoo:language {why}")
    assert f"uniform {why}" in found.text


@pytest.mark.parametrize(("bound", "works"), [(0.75, True), (0.9, False)])
def test_a_winner_that_breaks_a_constraint_is_no_success(tmp_path, bound, works):
    constraint = {"task": "zoo_l2_maths", "metric": "exact_match", "at_least": bound}
    view = run_with(tmp_path, ours=20, parent=4, constraints=[constraint])
    found = verdict(view.table, view.best)
    assert found.works is works
    sentence = "breaks on the test documents: zoo_l2_maths/exact_match >= 0.9 (0.8333)."
    assert (sentence in found.text) is not works


def test_a_parent_that_wins_is_not_compared_with_itself(tmp_path):
    view = run_with(tmp_path, ours=9, parent=10, winner=0)
    assert list(view.table.comparisons) == ["uniform"]
    assert view.table.names["searched"] == "winner"
