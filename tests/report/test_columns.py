"""Scores, genes and seconds of candidates as columns."""

import pytest
from search_run import searched, write_search

from evomerge.report.columns import parts_of


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("columns")
    objectives = [{"task": name, "metric": "exact_match"} for name in ("zoo_maths", "zoo_l2_maths")]
    return searched(
        write_search(folder, objectives=objectives, budget={"candidates": 6}), folder / "run"
    )


def test_each_score_is_a_row_with_a_column_for_each_part(run):
    scores = run.scores
    assert set(scores["task"]) == {"zoo_maths", "zoo_l2_maths"}
    assert set(scores["metric"]) == {"exact_match"}
    assert set(scores["split"]) == {"search", "validation", "test"}
    assert scores.query("candidate == -1")["origin"].unique().tolist() == ["base"]
    wide = run.candidates
    for row in scores.query("candidate >= 0").itertuples():
        key = f"{row.split} {row.task}/{row.metric}"
        assert wide.loc[row.candidate, key] == pytest.approx(row.value, abs=1e-12)
    test = scores.query("split == 'test'")
    assert test["documents"].unique().tolist() == [32] and not test["is_estimate"].any()


def test_each_gene_is_a_row_with_a_column_for_each_part(run):
    genes = run.gene_values
    assert set(genes["parent"]) == {"zoo:language", "zoo:maths"}
    assert set(genes["knob"]) == {"weight"}
    for number, own in genes.groupby("candidate"):
        assert dict(zip(own["gene"], own["value"], strict=True)) == run.genes(number)
    assert {name for name in genes["place"] if name.startswith("layers[")}


def test_seconds_of_candidates_add_up_to_those_of_the_run(run):
    table, spent = run.candidates, run._view.run.timings.spent()
    merged = spent["merge"].seconds + spent["prepare"].seconds
    assert table["seconds merge"].sum() == pytest.approx(merged, abs=0.01)
    assert (table["seconds score"] > 0).all()
    base = run._view.run.timings.of_candidates()[-1]["evaluate"]
    assert table["seconds score"].sum() + base == pytest.approx(spent["evaluate"].seconds, abs=0.01)


def test_the_best_is_the_winner_itself_and_a_run_is_read_again_when_it_grows(run):
    assert run.best is run.winner is not None
    before = run.history
    with (run.folder / "journal.jsonl").open("ab") as journal:
        journal.write(b"torn")
    assert run.history is not before and len(run.history.candidates) == 6


@pytest.mark.parametrize(
    ("gene", "parts"),
    [
        ("head.a.b.weight", ("head", "", "a.b", "weight")),
        ("layers[0:2].mlp.a.weight", ("layers[0:2]", "mlp", "a", "weight")),
        ("layers[0:2].mlp.up_proj.a.t", ("layers[0:2]", "mlp.up_proj", "a", "t")),
        ("layers[0].attention.lambda", ("layers[0]", "attention", "", "lambda")),
        ("a.b.priority", ("", "", "a.b", "priority")),
        ("slice0.parent", ("slice0", "", "", "parent")),
        ("method", ("", "", "", "method")),
    ],
)
def test_the_parts_of_a_gene(gene, parts):
    assert parts_of(gene, ["a", "b", "a.b"]) == parts
