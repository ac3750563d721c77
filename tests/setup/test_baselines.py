"""Which parents a pool merges: what is refused, and how a run shows it; and the base."""

import pytest
from search_run import SMALL

import evomerge
from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.report.page import page
from evomerge.run.folder import RunFolder
from evomerge.setup.genes import gene_rows
from evomerge.setup.preflight import warnings
from evomerge.setup.runs import prepare

POOL = SMALL | {
    "parents": ["zoo:language", "zoo:maths", "zoo:facts"],
    "space": {"kind": "parameters", "most_parents": 2, "embeddings": False},
    "budget": {"candidates": 9},
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"space": {"most_parents": 4}}, r"space.most_parents is 4, but .* from 1 to 3\."),
        ({"space": {"kind": "dataflow", "most_parents": 2}}, "`most_parents` 2, which has no"),
    ],
)
def test_what_cannot_be_made_is_refused(tmp_path, changes, said):
    with pytest.raises(ConfigError, match=said):
        prepare(parse(POOL | changes, "search.yaml"), tmp_path)


def test_baselines_count_as_candidates_of_the_budget(tmp_path):
    problem = prepare(parse(POOL | {"budget": {"candidates": 4}}, "search.yaml"), tmp_path)
    said = " ".join(warnings(problem, True))
    assert "but the 4 baselines (parents and averages of them)" in said
    row = ("priority", "3", "0 to 1", "0.5", "space.most_parents; in from 0.5 on")
    assert gene_rows(problem)[0] == row


def test_a_run_shows_what_it_merges(tmp_path):
    run = evomerge.search(POOL, run=tmp_path / "run", progress=False)
    models = list(dict.fromkeys(run.standings["model"]))
    assert models[:-1] == [*POOL["parents"], "uniform", "zoo:base (base)"]
    assert models[-1] == "winner"  # one of the parents: the merges of so short a search are worse
    sentence = "Of the 3 parents, it merges 1: zoo:language."
    assert sentence in page(RunFolder(tmp_path / "run"))


def test_the_base_is_tested_beside_the_winner_and_nothing_else_knows_of_it(tmp_path):
    """It is in no generation and wins nothing, so the search is the one that it was without."""
    objectives = [{"task": "zoo_l2_maths", "metric": "nll"}]
    config = SMALL | {"budget": {"candidates": 5}, "objectives": objectives}
    run = evomerge.search(config, run=tmp_path / "run", progress=False)
    journal = tmp_path / "run" / "journal.jsonl"
    whole = journal.read_bytes()
    events = RunFolder(tmp_path / "run").events()
    assert [event["event"] for event in events].count("base") == 1
    assert events[-1]["event"] == "base" and events[-1]["label"] == "zoo:base"
    assert len(run.history.candidates) == 5 and len(run.history.baselines) == 3
    (base,) = run.history.bases
    (alone,) = evomerge.evaluate("zoo:base", config, split="test").values()
    assert base.scores("test").aggregates["zoo_l2_maths/nll"] == alone.value
    rows = run.standings[run.standings["model"] == "zoo:base (base)"]
    assert rows["split"].tolist() == ["test"]

    journal.write_bytes(b"".join(whole.splitlines(keepends=True)[:-1]))  # killed before, or older
    evomerge.resume(tmp_path / "run", progress=False)
    assert journal.read_bytes() == whole
    evomerge.resume(tmp_path / "run", progress=False)
    assert journal.read_bytes() == whole
