"""A front is compared with the parents by objective, and shown on test documents."""

import numpy as np
import pytest
from run_folders import append, asked, write_run

from evomerge.report.fronts import hypervolume
from evomerge.report.view import View
from evomerge.run.history import outcome_fields
from evomerge.scores import Failure, Objective, Scores

ACC = Objective("zoo_l2_maths", "exact_match")
TOKENS = Objective("zoo_l2_maths", "tokens", higher_is_better=False)
LAYERS = "model/layers"


def scores(right, tokens, layers=4.0):
    """Scores of a model: right or wrong, and a number of tokens, of each document."""
    values = {ACC.key: tuple(map(float, right)), TOKENS.key: tuple(map(float, tokens))}
    means = {key: float(np.mean(items)) for key, items in values.items()}
    return Scores({ACC.task: tuple(range(len(right)))}, values, {**means, LAYERS: layers})


def answers(right, of):
    return (1.0,) * right + (0.0,) * (of - right)


def front_with(tmp_path, baselines, merges, knee=3, **changes):
    """Return the view of a finished search for exact match and few tokens.

    Outcomes on the test documents of two parents and the uniform merge, and of the merges on the
    front, of which the first is the knee.
    """
    outcomes = dict(enumerate([*baselines, *merges]))
    labels = {0: "zoo:language", 1: "zoo:maths", 2: "uniform"}
    events = []
    for number, outcome in outcomes.items():
        known = PARENT if isinstance(outcome, Failure) else outcome
        told = {"event": "tell", "candidate": number, **outcome_fields(known)}
        values = [known.aggregates[ACC.key], -known.aggregates[TOKENS.key]]
        events += [asked(number, labels.get(number), genome=[0.5]), told | {"values": values}]
    front = list(range(3, len(outcomes)))
    events.append({"event": "winner", "candidate": knee, "front": front or [knee]})
    for number, outcome in outcomes.items():
        score = {"event": "score", "candidate": number, "split": "test"}
        events.append(score | outcome_fields(outcome))
    objectives = [{"task": ACC.task, "metric": name} for name in ("exact_match", "tokens")]
    frozen = {"lower_is_better": [TOKENS.key]}
    changes = {"mode": "pareto", "optimizer": {"name": "nsga2"}, "frozen": frozen} | changes
    return View.of(write_run(tmp_path / "run", events, objectives=objectives, **changes))


BETTER, PARENT = scores(answers(300, 400), (8, 10) * 200), scores(answers(200, 400), (9, 11) * 200)
SHORTER = scores(answers(196, 400), (8, 10) * 200)


@pytest.mark.parametrize(
    ("merge", "words"),
    [
        (BETTER, "is better in exact_match (+25.0 points [+2"),
        (SHORTER, "is better in tokens (-1.00 [-1.0"),
        (PARENT, "is perhaps the same in exact_match (+0.0 points ["),
    ],
)
def test_a_front_has_no_verdict_but_a_sentence_for_each_parent(tmp_path, merge, words):
    view = front_with(tmp_path, [PARENT] * 3, [merge])
    found = view.verdict
    assert found.works is None
    assert found.text.startswith("No verdict on a front of 1 merge: which is best depends on what")
    for parent in ("zoo:language", "zoo:maths"):
        assert f"Against {parent}, candidate 3 (knee) {words}" in found.text, found.text


def test_each_merge_is_compared_with_each_parent(tmp_path):
    view = front_with(tmp_path, [PARENT] * 3, [BETTER, SHORTER])
    heads, rows = view.table.differences()
    assert heads == ("on test", "exact_match", "tokens")
    names = [
        f"candidate {n} - {p}" for n in ("3 (knee)", "4") for p in ("zoo:language", "zoo:maths")
    ]
    assert [row[0] for row in rows] == names
    assert rows[2][1].startswith("-1.0 [") and rows[2][2].startswith("-1.00 [")
    assert view.table.use_of_documents.endswith("nothing was chosen on the test documents.")
    append(view.run, [{"event": "winner", "candidate": 3, "front": [3]}])
    later = View.of(view.run).table
    assert later.use_of_documents.endswith(" They had measured another front before.")
    plain = view.table.to_dict()["front"]["candidate 4"]["zoo:maths"]
    assert plain[TOKENS.key]["difference"]["value"] == -1.0


def test_the_hypervolume_of_three_merges_is_the_area_under_their_steps(tmp_path):
    points = [
        (300, 9, 0.55),
        (196, 6, 0.7),
        (360, 15, 0.25),
    ]  # right of 400, tokens, share below 20
    merges = [scores(answers(right, 400), (tokens,) * 400) for right, tokens, _ in points]
    beaten = scores(answers(190, 400), (10,) * 400)
    view = front_with(tmp_path, [PARENT] * 3, [*merges, beaten])
    box = {ACC.key: (0.0, 1.0), TOKENS.key: (20.0, 0.0)}
    steps = 0.9 * 0.25 + 0.75 * (0.55 - 0.25) + 0.49 * (0.7 - 0.55)
    assert hypervolume(view.history, view.ranking, box, "test") == pytest.approx(steps)
    half = {
        ACC.key: (0.5, 1.0),
        TOKENS.key: (20.0, 10.0),
    }  # two merges reach beyond its best tokens
    assert hypervolume(view.history, view.ranking, half, "test") == pytest.approx(
        0.8 * 0.5 + 0.5 * (1.0 - 0.5)
    )


LATE = Failure("timeout", "It took longer than executor.timeout, 60 seconds.")


@pytest.mark.parametrize(
    ("baselines", "merges", "name"),
    [
        ([PARENT, LATE, PARENT], [BETTER], "zoo:maths"),
        ([PARENT] * 3, [BETTER, LATE], "candidate 4"),
        ([PARENT] * 3, [LATE, BETTER], "candidate 3 (knee)"),
    ],
)
def test_what_has_no_scores_is_named_and_hides_no_other(tmp_path, baselines, merges, name):
    view = front_with(tmp_path, baselines, merges)
    why = "cannot be compared: no scores on the test documents (timeout: It took longer than"
    assert f"Besides, {name} {why}" in view.verdict.text
    assert view.table.to_dict()["missing"].keys() == {name}
    assert view.table.differences() is not None
