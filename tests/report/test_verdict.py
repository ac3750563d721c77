"""The verdict says no more than the intervals do."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from run_folders import KEY, append, asked, scores, told, write_run

from evomerge.cli.live import in_words
from evomerge.report.confidence import compare
from evomerge.report.page import page
from evomerge.report.progress import points
from evomerge.report.verdict import level, next_step, verdict
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from evomerge.run.history import BASE, History, outcome_fields
from evomerge.scores import Failure, Objective, Scores
from evomerge.searching.ranking import WeightedSum

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


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


def scored(number, outcome, split="test"):
    return told(number, outcome) | {"event": "score", "split": split}


def winners(tmp_path, *right, of=24):
    """Return the view of a run in which one winner after the other was tested; the parent has 8."""
    both = [*(asked(0, "zoo:language"), told(0, scores(8, of))), scored(0, scores(8, of))]
    for number, ours in enumerate(right, 1):
        both += [asked(number, genome=[number / 9]), told(number, scores(ours, of))]
        both += [{"event": "winner", "candidate": number}]
        both += (
            []
            if number in [item["candidate"] for item in both if "split" in item]
            else [scored(number, scores(ours, of))]
        )
    return View.of(write_run(tmp_path / "run", both))


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
    found = [winners(tmp_path / str(n), *[8 + gained] * n, of=of) for n in (1, 2, 3)]
    assert [view.verdict.works for view in found] == yes
    for view in found:
        assert view.table.comparisons["zoo:language"].difference.low > 0
    first, second, third = (view.verdict.text for view in found)
    where = "winner that these test documents measured; with each, luck has another chance, so"
    needed = '"Yes" takes a probability of'
    assert f"It is the 2nd {where} {needed} 0.9975." in second
    assert f"It is the 3rd {where} {needed} 0.99875." in third
    assert "that these test documents measured" not in first
    why = f"{needed} 0.98, so that later winners can be measured"
    assert (why in first) is (not yes[0])
    assert found[2].table.use_of_documents.endswith("is the 3rd winner that they measured.")
    assert "This is the 3rd winner that they measured." in page(found[2].run)


def test_a_winner_that_is_confirmed_is_no_new_one(tmp_path):
    view = winners(tmp_path, 13)
    append(
        view.run,
        [
            *(asked(2, genome=[0.5]), told(2, scores(9))),
            {"event": "winner", "candidate": 1},
        ],
    )
    again = View.of(view.run)
    assert again.table.earlier == 0 and again.verdict == view.verdict


def test_levels_of_any_number_of_winners_add_up_to_one_side_of_an_interval():
    assert [level(number) for number in (1, 2, 3)] == [0.02, 0.0025, 0.00125]
    assert sum(map(level, range(1, 60))) <= 0.025


def test_many_winners_are_falsely_better_as_rarely_as_one(monkeypatch: pytest.MonkeyPatch):
    """With an interval for each, some of eight equally good winners was better in 15 %."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import winners as benchmark

    assert isinstance(benchmark, ModuleType)
    said, plain = benchmark.shares_of_yes(200, 1000)
    assert said[-1] < 0.025 + 2 * np.sqrt(0.025 / 1000)
    assert plain[-1] > 0.1


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
            (98, 25),
            "The winner is worse than the best parent in zoo_facts/acc (-75.0 points "
            "[-82.4, -64.6] against zoo:maths).",
        ),
        (
            (90, 99),
            "The winner may be worse than the best parent in zoo_facts/acc (-1.0 points "
            "[-3.7, +1.8] against zoo:maths).",
        ),
        ((90, 100), ""),
    ],
)
def test_a_verdict_over_several_objectives_names_what_was_lost(tmp_path, ours, lost):
    """98 of one task and 25 of another, of which a parent has 100, was better than each parent."""
    models = {"zoo:language": (5, 27), "zoo:maths": (0, 100), "uniform": (2, 30), None: ours}
    events = []
    for number, (label, right) in enumerate(models.items()):
        events += [asked(number, label, [0.5]), told(number, two(*right))]
        events += [scored(number, two(*right))]
    objectives = [
        {"task": "zoo_l2_maths", "metric": "exact_match", "weight": 2.0},
        {"task": "zoo_facts", "metric": "acc"},
    ]
    run = write_run(
        tmp_path / "run", [*events, {"event": "winner", "candidate": 3}], objectives=objectives
    )
    found = View.of(run).verdict
    assert found.works
    sentences = found.text.replace(lost, "|", 1) if lost else found.text
    assert sentences.startswith(
        "Yes: on the test documents the searched merge is better than each parent and the uniform "
        f"merge in the weighted mean of {KEY} and zoo_facts/acc. {'| ' if lost else ''}The closest"
    )


def baseline_wins(tmp_path, winner, parent, uniform, merge, **changes):
    """Return the view of a run that a baseline has won; numbers of right answers of 100."""
    events = []
    for number, (label, right) in enumerate(
        {"zoo:language": parent, "uniform": uniform, None: merge}.items()
    ):
        events += [asked(number, label, [0.5]), told(number, scores(right, 100))]
        events += [scored(number, scores(right, 100), "validation")]
        events += [scored(number, scores(right, 100))] if label else []
    events.append({"event": "winner", "candidate": winner})
    frozen = {"genes": [f"gene {n}" for n in range(9)]}
    return View.of(write_run(tmp_path / "run", events, **{"frozen": frozen} | changes))


def test_no_evidence_says_how_a_uniform_merge_that_wins_stands_beside_the_best_parent(tmp_path):
    """That averaging alone had gained 25 points was not said."""
    text = baseline_wins(tmp_path / "a", 1, 40, 65, 60).verdict.text
    assert (
        " Averaging alone helped: on the test documents, against zoo:language uniform has +25.0 "
        "points [+15.8, +33.2], better with probability > 0.999." in text
    )
    text = baseline_wins(tmp_path / "b", 1, 40, 42, 41).verdict.text
    assert "Nor is it sure that averaging helped: on the test documents, against zoo:lang" in text


def test_no_evidence_says_how_a_parent_that_wins_stands_beside_the_uniform_merge(tmp_path):
    text = baseline_wins(tmp_path, 0, 40, 38, 39).verdict.text
    where = " On the test documents, against uniform zoo:language has"
    assert f"{where} +2.0 points [-1.4, +5.3], better with probability 0.876. Next" in text


def test_averaging_is_not_said_to_help_where_a_parent_failed_or_the_average_is_worse(tmp_path):
    """It was said beside a parent whose test had failed, and of an average that was worse."""

    def uniform_wins(name, uniform, other):
        outcomes = {"zoo:language": scores(40, 100), "zoo:maths": other, "uniform": uniform}
        events = []
        for number, (label, outcome) in enumerate(outcomes.items()):
            events += [asked(number, label), told(number, scores(60, 100)), scored(number, outcome)]
        events.append({"event": "winner", "candidate": 2})
        return View.of(write_run(tmp_path / name, events)).verdict.text

    failed = Failure("timeout", "It took too long.")
    text = uniform_wins("failed", scores(65, 100), failed)
    assert "Nor is it sure that averaging helped" in text
    assert "Besides, zoo:maths has no scores on the test documents (timeout" in text
    assert "Averaging alone made it worse" in uniform_wins("w", scores(8, 100), scores(40, 100))


def test_a_search_that_runs_has_no_verdict_yet_though_a_parent_leads(tmp_path):
    """It said that no merge beats the parent, and what to do next."""
    events = [asked(0, "zoo:language"), told(0, scores(9)), asked(1, "uniform"), told(1, scores(4))]
    found = View.of(write_run(tmp_path / "run", events)).verdict
    assert found.works is None and found.text.startswith("Not known yet: zoo:language is the best")


def test_what_to_do_next_follows_from_the_figures(tmp_path):
    def next_of(name, optimizer):
        found = baseline_wins(tmp_path / name, 0, 40, 38, 39, optimizer=optimizer)
        return found.verdict.text.partition(" Next: ")[2]

    assert next_of("evolution", {"name": "cma"}).startswith("gradients (`optimizer: {name: grad")
    view = View.of(RunFolder(tmp_path / "evolution" / "run"))
    judge = view.config.objectives[0].model_copy(update={"task": "judging:judge"})
    judged = view.config.model_copy(update={"objectives": [judge]})
    few, enough = (next_step(view.table, judged, tried) for tried in (89, 90))
    assert few == " Next: 90 candidates, 10 a gene: `evomerge resume RUN --candidates N`."
    assert enough == " Next: more search and validation documents, or other parents."
    assert next_of("done", {"name": "gradient"}).startswith("more search and validation documents")


def test_a_merge_that_is_ahead_but_not_surely_needs_more_documents(tmp_path):
    view = run_with(tmp_path, ours=12, parent=10)
    assert view.config.evaluation.test.documents != "all"
    assert "Next: a new run with more test documents; it takes about 76." in view.verdict.text
    behind = run_with(tmp_path / "behind", ours=10, parent=12)
    assert "Next: gradients" in behind.verdict.text


def test_fewer_nats_are_a_difference_below_zero_and_better(tmp_path):
    """The table had 5.9 and 12.5 nats, and the difference beside it was +6.6."""

    def nats(mean):
        values = tuple(mean + 0.1 * np.cos(np.arange(24)))
        key = "zoo_l2_maths/nll"
        ids = {"zoo_l2_maths": tuple(range(24))}
        return Scores(ids, {key: values}, {key: float(np.mean(values))})

    found = compare(
        [Objective("zoo_l2_maths", "nll", higher_is_better=False)], nats(5.9), nats(12.5)
    )
    assert found is not None and found.difference.low > 0
    assert found.text.startswith("-6.60 [-") and found.text.endswith("probability > 0.999")
    assert found.to_dict()["difference"]["high"] < 0


def test_where_less_is_better_people_see_the_metric_itself(tmp_path):
    """A perplexity of 3.4 was `best -3.4` while a search ran, and in `status`."""
    objective = {"task": "zoo_l2_maths", "metric": "word_perplexity"}
    key, ids = "zoo_l2_maths/word_perplexity", {"zoo_l2_maths": (0, 1)}
    found = Scores(ids, {key: (3.0, 3.8)}, {key: 3.4})
    tell = told(0, found) | {"values": [-3.4]}
    run = write_run(tmp_path / "run", [asked(0, "zoo:language"), tell], objectives=[objective])
    ranking = WeightedSum([Objective("zoo_l2_maths", "word_perplexity", higher_is_better=False)])
    history = History(run.events())
    assert points(history.candidates[0], ranking) == "word_perplexity 3.4"
    best = {"fitness": -3.4, "scores": {key: 3.4}, "candidate": 0, "origin": "zoo:language"}
    assert in_words({"best": best}) == {"best": "word_perplexity 3.4, candidate 0 (zoo:language)"}


def test_the_base_is_a_row_and_no_candidate(tmp_path):
    run = run_with(tmp_path, ours=20, parent=4, base="zoo:base").run
    event = {"event": "base", "candidate": BASE, "label": "zoo:base", "digest": "0" * 64}
    append(run, [event | outcome_fields(scores(1))])
    view = View.of(run)
    history = History(run.events())
    assert len(history.candidates) == 3 and len(history.baselines) == 2
    assert [row.label for row in view.table.rows][-2:] == ["zoo:base", "searched"]
    assert view.table.names["zoo:base"] == "zoo:base (base)"
    assert view.table.cell(view.table.rows[-2], "test", KEY)[0] == "4.2"
    assert view.verdict.text.startswith("Yes") and "zoo:base" not in view.verdict.text
