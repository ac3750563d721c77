"""The verdict says no more than the intervals do."""

from pathlib import Path

import numpy as np
import pytest
from run_folders import KEY, append, asked, finished, scores, told, write_run

from evomerge.report.confidence import compare
from evomerge.report.standings import Standing
from evomerge.report.tables import Winner, level
from evomerge.report.view import View
from evomerge.run.history import BASE, Candidate, outcome_fields
from evomerge.scores import Failure, Objective, Scores

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
LATE = Failure("timeout", "It took longer than executor.timeout, 60 seconds.")
WHY = "cannot be compared: no scores on the test documents (timeout: It took longer than"


def scored(number, outcome, split="test"):
    return {"event": "score", "candidate": number, "split": split, **outcome_fields(outcome)}


def run_with(folder, models, winner=None, splits=("test",), late=(), **changes):
    """Return the view of a finished run; `late`: candidates without test scores."""
    finals = {n: LATE if n in late else outcome for n, outcome in enumerate(models.values())}
    run = finished(folder / "run", list(models.items()), finals, winner, splits, **changes)
    return View.of(run)


def three(folder, ours, parent, **more):
    return run_with(folder, {"zoo:language": parent, "uniform": parent, None: ours}, **more)


@pytest.mark.parametrize(
    ("case", "works", "words"),
    [
        ({"ours": 20, "parent": 4}, True, "Yes: on the test documents"),
        ({"ours": 11, "parent": 10}, False, "No evidence of improvement: on the test documents"),
        ({"ours": 2, "parent": 20}, False, "is worse than zoo:language and uniform"),
        ({"ours": 9, "parent": 10, "winner": 0}, False, "no merge that was searched beats"),
        ({"ours": 20, "parent": 4, "splits": ()}, None, "Not known yet"),
        ({"ours": 20, "parent": 10, "late": [0]}, None, "No verdict: on the test documents the se"),
        ({"ours": 20, "parent": 10, "late": [1]}, None, "than zoo:language, but uniform cannot"),
        ({"ours": 2, "parent": 10, "late": [0]}, False, "is worse than uniform"),
        ({"ours": 10, "parent": 10, "late": [0]}, False, "No evidence of improvement"),
        (
            {"ours": 20, "parent": 10, "late": [0, 1]},
            None,
            "No verdict: zoo:language and uniform cannot",
        ),
    ],
)
def test_the_verdict(tmp_path, case, works, words):
    """A baseline that timed out is no baseline that was beaten; it is named."""
    view = three(tmp_path, **case)
    assert view.verdict.works is works
    assert words in view.verdict.text
    for number in case.get("late", ()):
        name = ("zoo:language", "uniform")[number]
        assert name in view.verdict.text and f" {WHY}" in view.verdict.text
        assert view.table.to_dict()["missing"][name].startswith("cannot be compared: no scores")
    if "winner" in case:  # a parent that wins is not compared with itself, but with the best merge
        assert list(view.table.comparisons) == ["uniform", "best merge"]
        assert view.table.names["searched"] == "winner"
        assert view.table.names["best merge"] == "candidate 2 (best merge)"


@pytest.mark.parametrize(("bound", "works"), [(0.75, True), (0.9, False)])
def test_a_winner_that_breaks_a_constraint_is_no_success(tmp_path, bound, works):
    constraint = {"task": "zoo_l2_maths", "metric": "exact_match", "at_least": bound}
    found = three(tmp_path, 20, 4, constraints=[constraint]).verdict
    assert found.works is works
    sentence = "breaks on the test documents: zoo_l2_maths/exact_match >= 0.9 (0.8333)."
    assert (sentence in found.text) is not works


def winners(tmp_path, right, count, of):
    """Return the view of a run that has tested so many equal winners; the parent has 8."""
    events = [asked(0, "zoo:language"), told(0, scores(8, of)), scored(0, scores(8, of))]
    for number in range(1, count + 1):
        ours = scores(right, of)
        events += [asked(number, genome=[number / 9]), told(number, ours)]
        events += [{"event": "winner", "candidate": number}, scored(number, ours)]
    return View.of(write_run(tmp_path / "run", events))


@pytest.mark.parametrize(
    ("gained", "of", "yes"),
    [
        # One-sided p-values: .020, .018 and .0023.
        (5, 200, [False, False, False]),
        (5, 24, [True, False, False]),
        (8, 24, [True, True, False]),
    ],
)
def test_a_later_winner_on_the_same_documents_is_held_to_a_stricter_level(
    tmp_path, gained, of, yes
):
    found = [winners(tmp_path / str(n), 8 + gained, n, of) for n in (1, 2, 3)]
    assert [view.verdict.works for view in found] == yes
    for view in found:
        assert view.table.comparisons["zoo:language"].difference.low > 0
    second, third = (view.verdict.text for view in found[1:])
    assert "probability of 0.9975." in second and "probability of 0.99875." in third
    more = [asked(4, genome=[0.5]), told(4, scores(9)), {"event": "winner", "candidate": 3}]
    append(found[2].run, more)  # a winner that is confirmed is no new one
    assert View.of(found[2].run).verdict == found[2].verdict


def test_many_winners_are_falsely_better_as_rarely_as_one(monkeypatch: pytest.MonkeyPatch):
    """With an interval for each, some of eight equally good winners was better in 15 %."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import winners as benchmark

    assert sum(map(level, range(1, 60))) <= 0.025
    said, plain = benchmark.shares_of_yes(200, 1000)
    assert said[-1] < 0.025 + 2 * np.sqrt(0.025 / 1000)
    assert plain[-1] > 0.1


@pytest.mark.parametrize("documents", [100, 1000])
def test_a_merge_as_good_as_three_parents_is_rarely_called_worse(monkeypatch, documents):
    """Each parent is another chance for luck: at the level of one, 4 to 5 % were called worse."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import winners as benchmark

    generator, runs, parents = np.random.default_rng(1), 2000, ("one", "two", "three")
    rows = [Standing(name, number, {}) for number, name in enumerate((*parents, "searched"))]
    of_one, said = 0, 0
    for _ in range(runs):
        rights = generator.random((5, documents)) < benchmark.RIGHT
        alike = generator.random((4, documents)) < benchmark.AGREE
        *theirs, ours = np.where(alike, rights[-1], rights[:-1])
        counts = [(int((ours & ~it).sum()), int((it & ~ours).sum())) for it in theirs]
        compared = [benchmark.compared(*pair, documents) for pair in counts]
        table = Winner(
            rows=rows,
            columns=[benchmark.OBJECTIVE.key],
            objectives=[benchmark.OBJECTIVE],
            comparisons=dict(zip(parents, compared, strict=True)),
            compared_on="test",
        )
        said += "is worse than" in table.verdict(Candidate(3, None, "")).text
        of_one += any(comparison.probability <= level(1) for comparison in compared)
    assert said / runs < level(1) + 2 * np.sqrt(level(1) / runs) < 0.03 < of_one / runs


def two(first: int, second: int, of: int = 100) -> Scores:
    """Return the scores on two tasks."""
    keys = {"zoo_l2_maths/exact_match": first, "zoo_facts/acc": second}
    return Scores(
        {key.split("/")[0]: tuple(range(of)) for key in keys},
        {key: (1.0,) * right + (0.0,) * (of - right) for key, right in keys.items()},
        {key: right / of for key, right in keys.items()},
    )


@pytest.mark.parametrize(
    ("ours", "lost"),
    [
        (
            (98, 28),
            " A parent has a better score in zoo_facts/acc (zoo:maths 100.0, searched 28.0).",
        ),
        ((90, 100), ""),
    ],
)
def test_a_verdict_over_several_objectives_names_what_was_lost(tmp_path, ours, lost):
    """98 of one task and 28 of another, of which a parent has 100, was better than each parent."""
    models = {"zoo:language": (5, 27), "zoo:maths": (0, 100), "uniform": (2, 30), None: ours}
    objectives = [
        {"task": "zoo_l2_maths", "metric": "exact_match", "weight": 2.0},
        {"task": "zoo_facts", "metric": "acc"},
    ]
    known = {label: two(*right) for label, right in models.items()}
    found = run_with(tmp_path, known, objectives=objectives).verdict
    assert found.works
    assert f" in the weighted mean of {KEY} and zoo_facts/acc.{lost} The closest" in found.text


def test_where_less_is_better_people_see_the_metric_itself(tmp_path):
    """The difference of 5.9 and 12.5 nats was +6.6."""

    def nats(mean):
        values = tuple(mean + 0.1 * np.cos(np.arange(24)))
        ids = {"zoo_l2_maths": tuple(range(24))}
        return Scores(ids, {"zoo_l2_maths/nll": values}, {"zoo_l2_maths/nll": np.mean(values)})

    nll = Objective("zoo_l2_maths", "nll", higher_is_better=False)
    found = compare([nll], nats(5.9), nats(12.5))
    assert found is not None and found.difference.low > 0
    assert found.text.startswith("-6.60 [-") and found.text.endswith("probability > 0.999")
    assert found.to_dict()["difference"]["high"] < 0


def test_the_base_is_a_row_and_no_candidate(tmp_path):
    run = three(tmp_path, 20, 4, base="zoo:base").run
    event = {"event": "base", "candidate": BASE, "label": "zoo:base", "digest": "0" * 64}
    append(run, [event | outcome_fields(scores(1))])
    view = View.of(run)
    assert len(view.history.candidates) == 3 and len(view.history.baselines) == 2
    assert [row.label for row in view.table.rows][-2:] == ["zoo:base", "searched"]
    assert view.table.names["zoo:base"] == "zoo:base (base)"
    assert view.table.cell(view.table.rows[-2], "test", KEY)[0] == "4.2"
    assert view.verdict.text.startswith("Yes") and "zoo:base" not in view.verdict.text
