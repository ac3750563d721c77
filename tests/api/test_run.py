"""A run folder as an object says the same as the command line."""

from dataclasses import replace
from pathlib import Path

import pytest
from run_folders import FAILED, KEY, append, asked, finished, scores, told, write_run
from search_run import evomerge_json

from evomerge.api.run import Run, plot_front
from evomerge.errors import InputError, RunFolderError
from evomerge.run.folder import RunFolder
from evomerge.scores import Example

GENES = ["layers[0:1].zoo:maths.weight"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    models = [("zoo:language", scores(6)), (None, FAILED), (None, scores(21))]
    return Run(finished(tmp_path / "run", models, {2: 20}, frozen={"genes": GENES}).path)


def test_candidates_are_the_rows_of_results(run: Run) -> None:
    frame = run.candidates
    rows = evomerge_json("results", run.folder)["candidates"]
    plain = frame.reset_index().to_dict("records")
    for ours, theirs in zip(plain, rows, strict=True):
        assert {k: None if v != v else v for k, v in ours.items()} == theirs
    assert frame.loc[2, f"gene {GENES[0]}"] == 0.5
    assert frame.loc[1, "status"] == "failed"


def test_documents_are_a_row_for_each_value_with_the_answer_where_it_is_kept(
    tmp_path: Path,
) -> None:
    task, _, metric = KEY.partition("/")
    example = Example(task, 1, "1 + 1 =", "2.", "2", "2", {metric: 1.0})
    parent = replace(scores(6), examples=(example,), right={task: {0: "four"}})
    models = [("zoo:language", parent), (None, FAILED), (None, scores(21))]
    folder = finished(tmp_path / "run", models, {2: 20}).path
    frame = Run(folder).documents()
    names = ["candidate", "split", "task", "document", "metric", "value"]
    assert list(frame) == [*names, "text", "prompt", "target"]
    means = frame.groupby(["candidate", "split"]).value.mean()
    assert means.to_dict() == {(0, "search"): 6 / 24, (2, "search"): 21 / 24, (2, "test"): 20 / 24}
    first = frame.iloc[:24]
    assert first.document.tolist() == list(range(24)) and first.value.tolist() == [1] * 6 + [0] * 18
    assert (frame.task.unique(), frame.metric.unique()) == (task, metric)
    assert frame.text.dropna().to_dict() == {0: "four", 1: "2."}
    assert frame.loc[1, ["prompt", "target"]].tolist() == ["1 + 1 =", "2"]
    assert Run(write_run(tmp_path / "empty", []).path).documents().empty


def test_the_best_candidate_its_genes_and_the_standings(run: Run) -> None:
    assert run.best is not None and run.best.number == 2
    assert repr(run.best) == "Candidate(2, 'optimizer', scored, values=(0.875,))"
    assert run.winner is not None and run.winner.number == 2
    assert [item.number for item in run.front] == [2]
    assert run.genes() == run.genes(2) == {GENES[0]: 0.5}
    table = run.standings.set_index(["score", "split", "model"]).sort_index()
    assert run.standings.split[0] == "test"
    assert table.loc[(KEY, "search", "searched"), "value"] == 21 / 24
    assert table.loc[(KEY, "test", "searched"), "value"] == 20 / 24
    assert table.loc[(KEY, "search", "zoo:language"), "low"] < 6 / 24
    assert f"{KEY} on search in %:\n" in str(run)
    assert "Not known yet" in run._repr_html_() and "searched" in run._repr_html_()
    assert run.status["winner"] == 2
    with pytest.raises(RunFolderError):
        run.genes(7)


def test_a_parent_that_wins_has_no_genes(run: Run, tmp_path: Path) -> None:
    models = [("zoo:language", 20), (None, 3)]
    run = Run(finished(tmp_path / "parent", models, winner=0, frozen={"genes": GENES}).path)
    assert run.best is not None and run.best.label == "zoo:language"
    assert run.genes(1) == {GENES[0]: 0.25}
    with pytest.raises(
        InputError, match=r"Candidate 0 \(zoo:language\) has no genes; give a .*, such as 1, the"
    ):
        run.genes()
    assert run.candidates[f"gene {GENES[0]}"].isna().tolist() == [True, False]
    assert "The winner is candidate 0, the baseline" in run.report(tmp_path / "page").read_text()


def test_a_front_is_plotted_only_if_there_is_one(run: Run, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no front, since its `mode` is not 'pareto'"):
        plot_front(run)
    objectives = [{"task": KEY.partition("/")[0], "metric": name} for name in ("exact_match", "x")]
    both = replace(scores(6), aggregates={KEY: 0.25, f"{objectives[1]['task']}/x": 3.0})
    events = [asked(0, "zoo:language"), told(0, both) | {"values": [0.25, 3.0]}]
    front = Run(write_run(tmp_path / "f", events, mode="pareto", objectives=objectives).path)
    assert front.winner is None
    assert [axes.get_ylabel() for axes in plot_front(front).axes] == [f"{KEY} in %"]


def test_genes_have_the_names_of_parents_that_the_standings_have(tmp_path: Path) -> None:
    """Two folders of one name are told apart in both, and a run keeps the whole names."""
    parents = [str(tmp_path / place / "a") for place in ("one", "two")]
    whole = [f"{parent}.weight" for parent in parents]
    events = [asked(n, name) for n, name in enumerate(parents)]
    events += [asked(2, genome=[0.5, 1.0]), asked(3, genome=[0.25, 0.5])]
    events += [told(n, scores(right)) for n, right in enumerate((0, 1, 3, 2))]
    folder = write_run(tmp_path / "run", events, parents=parents, frozen={"genes": whole}).path
    run, short = Run(folder), ["one/a.weight", "two/a.weight"]
    assert {"one/a", "two/a"} < set(run.standings["model"])
    assert run.genes() == dict(zip(short, [0.5, 1.0], strict=True))
    assert {f"gene {name}" for name in short} < set(run.candidates.columns)
    rows = evomerge_json("results", folder)["candidates"]
    assert rows[2]["gene one/a.weight"] == 0.5
    assert run.record.genes == run.config.frozen.genes == whole


def test_an_empty_run_has_no_rows(tmp_path: Path) -> None:
    run = Run(write_run(tmp_path / "run", []).path)
    assert run.candidates.empty and run.standings.empty and run.best is None and run.front == []
    assert "No candidate has been scored yet" in str(run)
    append(RunFolder(run.folder), [asked(0, "zoo:language"), told(0, scores(6))])
    assert len(run.candidates) == 1, "a run that goes on is read again"
    with pytest.raises(RunFolderError, match="does not exist"):
        Run(tmp_path / "none")
