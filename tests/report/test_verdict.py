"""The verdict says no more than the intervals do."""

from pathlib import Path

import numpy as np
import pytest
from run_folders import KEY, append, asked, finished, scores, told, write_run

from evomerge.report.confidence import compare
from evomerge.report.facts import points, progress
from evomerge.report.page import page
from evomerge.report.standings import Standing
from evomerge.report.tables import Winner, level
from evomerge.report.view import View
from evomerge.run.folder import RunFolder
from evomerge.run.history import BASE, Candidate, History, outcome_fields
from evomerge.run.ranking import WeightedSum
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


def of_100(parent, uniform, merge):
    rights = {"zoo:language": parent, "uniform": uniform, None: merge}
    return {label: scores(right, 100) for label, right in rights.items()}


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
    first, second, third = (view.verdict.text for view in found)
    where = "that these test documents measured; with each, luck has another chance, so"
    needed = '"Yes" takes a probability of'
    assert f"It is winner 2 {where} {needed} 0.9975." in second
    assert f"It is winner 3 {where} {needed} 0.99875." in third
    assert "that these test documents measured" not in first
    why = f"{needed} 0.98, so that later winners can be measured"
    assert (why in first) is (not yes[0])
    assert "They had measured another winner before." in page(found[2].run)
    assert "They had measured" not in found[0].table.use_of_documents
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


def test_a_search_that_runs_has_no_verdict_yet_though_a_parent_leads(tmp_path):
    """It said that no merge beats the parent, and what to do next."""
    events = [asked(0, "zoo:language"), told(0, scores(9)), asked(1, "uniform"), told(1, scores(4))]
    found = View.of(write_run(tmp_path / "run", events)).verdict
    assert found.works is None and found.text.startswith("Not known yet: zoo:language is the best")


def test_what_to_do_next_follows_from_the_figures(tmp_path):
    def next_of(name, optimizer):
        frozen = {"genes": [f"gene {n}" for n in range(9)]}
        more = {"optimizer": optimizer, "frozen": frozen}
        text = run_with(tmp_path / name, of_100(40, 38, 39), 0, **more).verdict.text
        return text.partition(" Next: ")[2]

    assert next_of("evolution", {"name": "cma"}).startswith("gradients (`optimizer: {name: grad")
    view = View.of(RunFolder(tmp_path / "evolution" / "run"))
    judge = view.config.objectives[0].model_copy(update={"task": "judging:judge"})
    changed = view.config.model_copy(update={"objectives": [judge]})
    judged = view.record.model_copy(update={"config": changed})
    candidates, more = view.history.candidates, f"`evomerge resume {view.run.path} --candidates 90`"
    assert view.table  # of the scores that there are
    object.__setattr__(view, "record", judged)
    candidates *= 30
    assert view.advice.startswith(" Next: more search")
    del candidates[-1]
    assert view.advice == f" Next: 90 candidates, 10 a gene: {more}."
    assert next_of("done", {"name": "gradient"}).startswith("more search and validation documents")
    ahead, behind = three(tmp_path / "ahead", 12, 10), three(tmp_path / "behind", 10, 12)
    assert ahead.config.evaluation.test.documents != "all"
    assert "Next: a new run with more test documents; it takes about 76." in ahead.verdict.text
    assert "Next: gradients" in behind.verdict.text


@pytest.mark.parametrize(
    ("space", "gene", "kind", "suits"),
    [
        ({"method": "linear"}, "zoo:maths.weight", "real", True),
        ({"method": "linear"}, "zoo:maths.weight", "integer", False),
        ({"method": "ties"}, "zoo:maths.density", "real", False),
        ({"method": "ties", "most_parents": 1}, "zoo:maths.priority", "real", False),
        ({"method": "removed_since"}, "zoo:maths.weight", "real", False),
    ],
)
def test_gradients_are_advised_only_where_a_gene_has_one(tmp_path, space, gene, kind, suits):
    ranges = [{"genes": [gene], "kind": kind, "low": 0, "high": 1}]
    more = {
        "space": {"kind": "parameters", **space},
        "frozen": {"genes": [gene], "gene_ranges": ranges},
    }
    text = run_with(tmp_path, of_100(40, 38, 39), 0, **more).verdict.text
    assert ("Next: gradients" in text) is suits
    assert (" Next: 10 candidates" in text) is not suits


def test_where_less_is_better_people_see_the_metric_itself(tmp_path):
    """The difference of 5.9 and 12.5 nats was +6.6; a perplexity of 3.4 was `best -3.4`."""

    def nats(mean):
        values = tuple(mean + 0.1 * np.cos(np.arange(24)))
        ids = {"zoo_l2_maths": tuple(range(24))}
        return Scores(ids, {"zoo_l2_maths/nll": values}, {"zoo_l2_maths/nll": np.mean(values)})

    nll = Objective("zoo_l2_maths", "nll", higher_is_better=False)
    found = compare([nll], nats(5.9), nats(12.5))
    assert found is not None and found.difference.low > 0
    assert found.text.startswith("-6.60 [-") and found.text.endswith("probability > 0.999")
    assert found.to_dict()["difference"]["high"] < 0
    objective = {"task": "zoo_l2_maths", "metric": "word_perplexity"}
    key, ids = "zoo_l2_maths/word_perplexity", {"zoo_l2_maths": (0, 1)}
    tell = told(0, Scores(ids, {key: (3.0, 3.8)}, {key: 3.4})) | {"values": [-3.4]}
    more = {"objectives": [objective], "frozen": {"lower_is_better": [key]}}
    run = write_run(tmp_path / "run", [asked(0, "zoo:language"), tell], **more)
    ranking = WeightedSum([Objective("zoo_l2_maths", "word_perplexity", higher_is_better=False)])
    assert points(History(run.events()).candidates[0], ranking) == "word_perplexity 3.4"
    assert progress(run).in_words()["best"] == "word_perplexity 3.4, candidate 0 (zoo:language)"


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
