"""The papers that `evomerge results` names for a run."""

import json

import pytest
from search_run import searched, write_search

from evomerge.__main__ import run as call
from evomerge.optimize import BUILTIN
from evomerge.report.papers import papers_of
from evomerge.report.view import View
from evomerge.run.folder import RunFolder

SPACE = "Akiba et al. 2025, arXiv 2403.13187"
STATISTICS = {"intervals of scores", "comparisons of models"}


@pytest.mark.parametrize(
    ("changes", "subjects"),
    [
        ({"optimizer": {"name": "cma"}}, {"cma"}),
        ({"optimizer": {"name": "gp"}, "budget": {"candidates": 5}}, {"gp"}),
        (
            {"space": {"kind": "parameters", "method": ["ties", "dare_ties"], "groups": "one"},
             "optimizer": {"name": "random"}},
            {"ties", "dare_ties"},
        ),
        ({"space": {"kind": "dataflow"}, "optimizer": {"name": "sobol"}}, set()),
    ],
)  # fmt: skip
def test_results_name_the_papers_of_what_a_run_used(tmp_path, capsys, changes, subjects):
    run = searched(write_search(tmp_path, **changes), tmp_path / "run")
    papers = papers_of(View.of(RunFolder(run.folder)))
    own = {"evolutionary model merge"} | STATISTICS | subjects
    assert {paper.subject for paper in papers} - {"task_arithmetic"} == own
    capsys.readouterr()
    call(["results", str(run.folder)])
    said = capsys.readouterr().err
    assert "to cite (docs/how-to/cite.md): " in said and SPACE in said
    call(["results", str(run.folder), "--json"])
    listed = json.loads(capsys.readouterr().out)["papers"]
    assert listed == [{"subject": one.subject, "reference": one.reference} for one in papers]


def test_every_optimizer_that_learns_has_a_paper():
    learning = {name for name, row in BUILTIN.items() if row.has_population or row.documents}
    assert {name for name in learning if not BUILTIN[name].papers} == {"auto"}
