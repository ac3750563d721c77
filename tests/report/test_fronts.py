"""Merges on a front beat the parents if they are better in something and worse in nothing.

Where this is not so, it is said in few runs, with one merge or with many; see also
`benchmarks/verdicts.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from run_folders import asked, write_run

from evomerge.report.beating import duel, p_value, rejected
from evomerge.report.fronts import compare_front, fallen
from evomerge.report.pictures import front_chart
from evomerge.report.verdict import verdict
from evomerge.report.view import View
from evomerge.run.history import Candidate, History, outcome_fields
from evomerge.scores import Failure, Objective, Scores
from evomerge.searching.ranking import ParetoFront

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
ACC = Objective("zoo_l2_maths", "exact_match")
TOKENS = Objective("zoo_l2_maths", "tokens", higher_is_better=False)
LAYERS = Objective("model", "layers", higher_is_better=False)


def scores(right, tokens, layers=4.0):
    """Scores of a model: right or wrong, and a number of tokens, of each document."""
    values = {ACC.key: tuple(map(float, right)), TOKENS.key: tuple(map(float, tokens))}
    means = {key: float(np.mean(items)) for key, items in values.items()}
    return Scores({ACC.task: tuple(range(len(right)))}, values, {**means, LAYERS.key: layers})


def answers(right, of):
    return (1.0,) * right + (0.0,) * (of - right)


@pytest.fixture
def verdicts(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import verdicts

    return verdicts


@pytest.mark.parametrize("documents", [50, 200, 500])
def test_worse_merges_with_fewer_tokens_beat_no_parent(documents):
    """Two points less accurate, a tenth fewer tokens: this was "Yes" in 67 to 90 % of runs."""
    generator, yes, runs = np.random.default_rng(0), 0, 25
    for _ in range(runs):
        lengths = 100 * np.exp(0.2 * generator.normal(size=documents))
        parent = Candidate(0, "parent", "0")
        parent.outcomes["test"] = scores(generator.random(documents) < 0.7, lengths)
        merge = Candidate(1, None, "1")
        shorter = 0.9 * lengths * np.exp(0.05 * generator.normal(size=documents))
        merge.outcomes["test"] = scores(generator.random(documents) < 0.68, shorter)
        labels = {0: "parent", 1: "merge"}
        found = compare_front([ACC, TOKENS], [merge], [parent], "test", labels)
        yes += bool(found.winners)
    assert yes <= 0.05 * runs


@pytest.mark.parametrize("documents", [50, 500])
def test_worse_merges_beat_no_parent_in_many_runs(verdicts, documents):
    found = verdicts.share_of_yes(verdicts.WORSE, documents, 300, np.random.default_rng(1))
    assert found <= 0.04


@pytest.mark.parametrize("members", [1, 10, 20])
def test_of_many_equal_merges_none_beats_a_parent(verdicts, members):
    """This was "Yes" in 31 % of runs with 10 merges, and in 47 % with 20."""
    (kind,) = (kind for kind in verdicts.EQUAL if kind.members == members)
    assert verdicts.share_of_yes(kind, 60, 100, np.random.default_rng(2)) <= 0.03


def test_luck_in_one_of_many_objectives_or_merges_is_corrected():
    """20 merges that keep every margin and are better in none of three objectives."""
    generator, yes, runs = np.random.default_rng(3), 0, 3000
    for _ in range(runs):
        found = p_value(generator.random((3, 20)), np.zeros((3, 20)), tries=3)
        yes += bool(rejected({str(number): float(p) for number, p in enumerate(found)}))
    assert 0.02 * runs < yes < 0.03 * runs


@pytest.mark.parametrize("documents", [100, 200])
def test_merges_whose_answers_may_run_away_beat_no_parent(verdicts, documents):
    """1 % of the answers have 2,048 tokens; most samples of 100 documents have none or one."""
    (kind,) = (k for k in verdicts.RUNAWAY if k.is_known and k.runaway == 0.01)
    assert verdicts.share_of_yes(kind, documents, 200, np.random.default_rng(5)) <= 0.04


def test_a_known_limit_of_tokens_takes_a_yes_away():
    """The same answers, of a task with 100 tokens at most and of one with 2,048."""
    lengths = np.random.default_rng(6).integers(80, 100, 100)
    theirs, ours = scores(answers(30, 100), lengths), scores(answers(60, 100), lengths)
    found = []
    for limit in (100.0, 2048.0):
        pair = (replace(item, largest={TOKENS.key: limit}) for item in (ours, theirs))
        found.append(duel([ACC, TOKENS], *pair))
    assert found[0].p < 0.025 < found[1].p
    assert found[0].margin_words == found[1].margin_words == "exact_match 1 point, tokens 5 %"


def test_better_merges_are_found(verdicts):
    (kind,) = (k for k in verdicts.BETTER if k.name.startswith("+8 points, tokens -10 %, 1 merge"))
    assert verdicts.share_of_yes(kind, 500, 100, np.random.default_rng(4)) >= 0.9


@pytest.mark.parametrize(
    ("objectives", "right", "layers", "beats"),
    [
        ([ACC, LAYERS], 180, 4.0, True),  # more accurate, as many layers
        ([ACC, LAYERS], 180, 5.0, False),  # one layer more
        ([ACC, Objective("model", "layers", 1.0, False, margin=1)], 180, 5.0, True),
        ([ACC, LAYERS], 100, 3.0, False),  # fewer layers, and the same score on few documents
        ([Objective(ACC.task, ACC.metric, margin=0.1), LAYERS], 100, 3.0, True),
    ],
)
def test_an_exact_objective_counts_exactly(objectives, right, layers, beats):
    of = 200
    theirs = scores(answers(100, of), (9,) * of)
    ours = scores(answers(right, of), (9,) * of, layers)
    found = duel(objectives, ours, theirs)
    assert found is not None
    assert (found.p <= 0.025) is beats


@pytest.mark.parametrize(("layers", "parameters", "p"), [(4, 40, 1), (3, 40, 0), (3, 41, 1)])
def test_only_exact_objectives_need_a_difference(layers, parameters, p):
    """Equal models do not beat each other, however sure it is that they are equal."""
    objectives = [LAYERS, Objective("model", "parameters", higher_is_better=False)]
    values = [{LAYERS.key: 4.0, objectives[1].key: 40.0}]
    values.append({LAYERS.key: float(layers), objectives[1].key: float(parameters)})
    theirs, ours = (Scores({"t": (0, 1)}, {}, item) for item in values)
    found = duel(objectives, ours, theirs)
    assert found is not None
    assert found.p == p
    assert len(found.gains(0.025)) == (layers < 4)


def test_the_usual_margin_of_tokens_is_a_share_of_the_parents():
    lengths = 100.0 + np.random.default_rng(5).normal(size=400)
    theirs = scores(answers(100, 400), lengths)
    four, six = (scores(answers(200, 400), lengths * factor) for factor in (1.04, 1.06))
    p_values = [duel([ACC, TOKENS], ours, theirs).p for ours in (four, six)]
    assert p_values[0] < 0.001 and p_values[1] > 0.999


def test_holms_method():
    # Holm 1979: 0.01 <= 0.05 / 3, 0.02 <= 0.05 / 2, but 0.06 > 0.05 / 1.
    assert rejected({"a": 0.06, "b": 0.01, "c": 0.02}, 0.05) == {"b", "c"}
    # What follows a p-value that is too large is not rejected, however small it is for its place.
    assert rejected({"a": 0.02, "b": 0.026, "c": 0.04}, 0.05) == set()


def front_of(tmp_path, merge, parent, other=None, uniform=None):
    """Return the view of a finished search whose front has one merge and its parents.

    `other` is the outcome of a second parent on the test documents.
    """
    return front_with(tmp_path, [parent, other or parent, uniform or parent], [merge])


def front_with(tmp_path, baselines, merges, **changes):
    """Return the view of a finished search for exact match and few tokens.

    Args:
        baselines: outcomes on the test documents of two parents and the uniform merge.
        merges: those of the merges on the front; the first one is the knee.
        changes: further changes of the search file.
    """
    outcomes = dict(enumerate([*baselines, *merges]))
    labels = {0: "zoo:language", 1: "zoo:maths", 2: "uniform"}
    events = []
    for number, outcome in outcomes.items():
        known = PARENT if isinstance(outcome, Failure) else outcome
        told = {"event": "tell", "candidate": number, **outcome_fields(known)}
        values = [known.aggregates[ACC.key], -known.aggregates[TOKENS.key]]
        events += [asked(number, labels.get(number), genome=[0.5]), told | {"values": values}]
    for number, outcome in outcomes.items():
        score = {"event": "score", "candidate": number, "split": "test"}
        events.append(score | outcome_fields(outcome))
    front = list(range(3, len(outcomes)))
    events.append({"event": "winner", "candidate": 3, "front": front})
    objectives = [
        {"task": ACC.task, "metric": "exact_match"},
        {"task": ACC.task, "metric": "tokens"},
    ]
    frozen = {"lower_is_better": [TOKENS.key]}
    changes = {"mode": "pareto", "optimizer": {"name": "nsga2"}, "frozen": frozen} | changes
    return View.of(write_run(tmp_path / "run", events, objectives=objectives, **changes))


BETTER, PARENT = scores(answers(300, 400), (8, 10) * 200), scores(answers(200, 400), (9, 11) * 200)
SHORTER = scores(answers(196, 400), (8, 10) * 200)
EQUAL = scores(answers(200, 400), (9, 11) * 200)


@pytest.mark.parametrize(
    ("merge", "works", "words"),
    [
        (BETTER, True, ["Yes: the front has 1 merge, of which 1 beats every parent"]),
        (BETTER, True, ["worse by its margin: exact_match 1 point, tokens 5 %"]),
        (SHORTER, False, ["A trade-off", "none is shown to beat every parent"]),
        (SHORTER, False, ["it has tokens -1.00 [-1.02, -0.96], for exact_match -1.0 points [-2."]),
        (EQUAL, False, ["No evidence of improvement", "none is better than each parent"]),
    ],
)
def test_the_verdict_of_a_front(tmp_path, merge, works, words):
    view = front_of(tmp_path, merge, PARENT)
    found = verdict(view.table, view.best)
    assert found.works is works
    for part in words:
        assert part in found.text, found.text


@pytest.mark.parametrize(
    ("merge", "works", "words"),
    [(BETTER, None, "No verdict: the front has 1 merge"), (EQUAL, False, "No evidence")],
)
def test_a_parent_without_scores_is_named_and_there_is_no_yes(tmp_path, merge, works, words):
    failure = Failure("timeout", "It took longer than executor.timeout, 60 seconds.")
    view = front_of(tmp_path, merge, PARENT, failure)
    found = verdict(view.table, view.best)
    assert found.works is works
    assert found.text.startswith(words)
    why = (
        "zoo:maths has no scores on the test documents (timeout: It took longer than "
        "executor.timeout, 60 seconds)"
    )
    assert why in found.text
    assert view.table.to_dict()["front"]["missing"] == {"zoo:maths": why.removeprefix("zoo:maths ")}


def test_an_objective_that_cannot_be_compared_leaves_no_yes(tmp_path):
    """An F1 over all documents has no error that is known, so a parent may be better in it."""
    whole = Scores(BETTER.documents, BETTER.values, {**BETTER.aggregates, ACC.key: 0.9})
    view = front_of(tmp_path, whole, PARENT)
    found = verdict(view.table, view.best)
    assert found.works is None
    assert "zoo:language cannot be compared" in found.text


LATE = Failure("timeout", "It took longer than executor.timeout, 60 seconds.")
NOT_SCORED = (
    "candidate 4 has no scores on the test documents (timeout: It took longer than "
    "executor.timeout, 60 seconds)"
)


@pytest.mark.parametrize(
    ("merges", "works", "words"),
    [
        ([BETTER, LATE], True, "Yes: the front has 2 merges, of which 1 beats every parent"),
        ([EQUAL, LATE], False, "No evidence of improvement: the front has 2 merges"),
        ([LATE, LATE], None, "No verdict: candidate 3 (knee) has no scores"),
    ],
)
def test_a_merge_without_scores_is_named_and_hides_no_other(tmp_path, merges, works, words):
    view = front_with(tmp_path, [PARENT] * 3, merges)
    found = verdict(view.table, view.best)
    assert found.works is works
    assert found.text.startswith(words)
    assert NOT_SCORED in found.text
    why = view.table.to_dict()["front"]["excluded"]["candidate 4"]
    assert why == NOT_SCORED.removeprefix("candidate 4 ")


def test_a_merge_without_scores_counts_among_those_that_could_win():
    """Holm's method does not get easier when some of many merges fail."""
    outcomes = {0: PARENT, 1: BETTER, 2: LATE, 3: LATE}
    parent, *merges = (Candidate(n, None if n else "parent", str(n)) for n in outcomes)
    for item in (parent, *merges):
        item.outcomes["test"] = outcomes[item.number]
    labels = {0: "parent", 1: "one", 2: "two", 3: "three"}
    found = compare_front([ACC, TOKENS], merges, [parent], "test", labels)
    assert list(found.p_values) == ["one", "two", "three"]
    assert found.p_values["two"] == found.p_values["three"] == 1.0
    assert found.winners == ["one"]
    assert found.members == ["one"] and found.parents == ["parent"]


def test_a_merge_that_cannot_be_compared_hides_no_other(tmp_path):
    whole = Scores(SHORTER.documents, SHORTER.values, {**SHORTER.aggregates, ACC.key: 0.9})
    view = front_with(tmp_path, [PARENT] * 3, [BETTER, whole])
    found = verdict(view.table, view.best)
    assert found.works is True
    assert "candidate 4 cannot be compared" in found.text


DEEP, SHALLOW = (scores(answers(300, 400), (8, 10) * 200, layers) for layers in (9.0, 4.0))
BREAKS = "breaks on the test documents: model/layers <= 5 (9)"


@pytest.mark.parametrize(
    ("merges", "works", "start", "broken"),
    [
        # The knee keeps the constraint; the merge that beats every parent does not.
        ([SHORTER, DEEP], False, "A trade-off", "Besides, candidate 4 breaks"),
        # The knee breaks it; another merge that keeps it beats every parent.
        ([DEEP, SHALLOW], True, "Yes: the front has 2 merges, of which 1", "candidate 3 (knee) br"),
        (
            [DEEP, DEEP],
            False,
            "No evidence of improvement: no merge on the front keeps",
            "(knee) b",
        ),
        ([DEEP, LATE], None, "No verdict", "candidate 4 has no scores"),
        ([SHALLOW, SHALLOW], True, "Yes: the front has 2 merges, of which 2", "beat every parent"),
    ],
)
def test_a_merge_that_breaks_a_constraint_is_named_and_never_wins(
    tmp_path, merges, works, start, broken
):
    constraints = [{"metric": "layers", "at_most": 5}]
    view = front_with(tmp_path, [PARENT] * 3, merges, constraints=constraints)
    found = verdict(view.table, view.best)
    assert found.works is works
    assert found.text.startswith(start)
    assert broken in found.text
    assert found.text.count(BREAKS) == merges.count(DEEP)


def lines_of(axes):
    """Label or colour of a line -> its points, of what is no interval."""
    return {
        (line.get_drawstyle(), line.get_marker()): line.get_xydata().tolist()
        for line in axes.lines
        if len(line.get_xydata()) and line.get_linewidth() != 1
    }


def test_the_front_is_shown_on_test_documents_with_steps(tmp_path):
    """Dots on search documents were mixed with a line of test documents, straight ones."""
    view = front_with(tmp_path, [PARENT] * 3, [BETTER, SHORTER])
    (axes,) = front_chart(view.history, view.ranking).axes
    assert axes.get_title(loc="left") == "on test documents"
    shown = lines_of(axes)
    # Candidate 4 is as short as candidate 3 and less accurate, so it is below the line.
    assert shown["default", "o"] == [[9.0, 75.0], [9.0, 49.0]]
    assert shown["steps-post", "None"] == [[9.0, 75.0]]
    assert shown["default", "D"] == [[10.0, 50.0]] * 3
    assert "explored" in view.figures
    (axes,) = front_chart(view.history, view.ranking, "search").axes
    assert axes.get_title(loc="left") == "on search documents"


def test_steps_turn_with_the_direction_of_the_objective_across(tmp_path):
    wide = scores(answers(300, 400), (20,) * 400)
    narrow = scores(answers(200, 400), (5,) * 400)
    for lower, way, order in (([TOKENS.key], "post", [5, 20]), ([], "pre", [20])):
        frozen = {"lower_is_better": lower}
        view = front_with(tmp_path / way, [PARENT] * 3, [wide, narrow], frozen=frozen)
        (axes,) = front_chart(view.history, view.ranking).axes
        assert [x for x, _ in lines_of(axes)[f"steps-{way}", "None"]] == order


def test_a_leader_that_falls_on_validation_is_named():
    ranking = ParetoFront([ACC, TOKENS])
    events = []
    for number, outcome in enumerate([BETTER, scores(answers(196, 400), (5, 7) * 200)]):
        told = {"event": "tell", "candidate": number, **outcome_fields(outcome)}
        values = [[0.75, -9.0], [0.49, -6.0]][number]
        events += [asked(number, genome=[0.5]), told | {"values": values}]
        score = {"event": "score", "candidate": number, "split": "validation"}
        events.append(score | outcome_fields(outcome))
    assert fallen(History(events), ranking) is None
    both = [*events, {"event": "winner", "candidate": 0, "front": [0, 1]}]
    assert fallen(History(both), ranking) is None
    one = [*events, {"event": "winner", "candidate": 0, "front": [0]}]
    assert fallen(History(one), ranking) == (
        "Of 2 merges on the front of the search documents that were scored again, candidate 1 "
        "fell: it is not on the front of the validation documents."
    )
