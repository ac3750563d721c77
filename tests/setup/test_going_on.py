"""`search --resume` goes on with the same search only; its budget and workers may differ."""

from __future__ import annotations

from typing import Any

import pytest
from run_folders import append
from search_run import SMALL

from evomerge.config.schema import parse
from evomerge.errors import RunFolderError
from evomerge.run.folder import RunFolder
from evomerge.setup.going_on import going_on
from evomerge.setup.runs import begin, prepare

FILE = SMALL | {
    "base": "zoo:base",
    "optimizer": {"name": "auto", "population": 4},
    "evaluation": SMALL["evaluation"] | {"fewshot": 0},
    "budget": {"candidates": 9},
}


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    folder = tmp_path_factory.mktemp("runs")
    wrote = parse(FILE, "file")
    return begin(folder / "run", prepare(wrote, folder), wrote, folder / "file")


def changed(run: RunFolder, **sections: Any) -> tuple[dict[str, float], list[str]]:
    return going_on(run.path, FILE | sections, run.path / "search.yaml")


def test_the_same_search_goes_on_as_it_is(begun: RunFolder) -> None:
    bounds, moves = changed(begun)
    assert bounds == {}
    assert moves[:2] == ['executor.kind="inline"', "executor.workers=1"]
    assert changed(begun, mode="weighted", tokenizer="base")[0] == {}, "the defaults"


def test_a_new_budget_and_other_workers_count(begun: RunFolder) -> None:
    bounds, moves = changed(begun, budget={"candidates": 20, "hours": 3})
    assert bounds == {"candidates": 20, "hours": 3}
    append(begun, [{"event": "budget", "candidates": 20}])
    assert changed(begun, budget={"candidates": 20})[0] == {}
    assert changed(begun)[0] == {}, "the file did not change, so what `resume` has set stays"
    _, moves = changed(begun, executor={"kind": "processes", "workers": 2, "timeout": 60})
    assert dict(move.split("=") for move in moves)["executor.workers"] == "2"


@pytest.mark.parametrize(
    ("changes", "keys"),
    [
        ({"seed": 3}, "seed"),
        ({"parents": ["zoo:language", "zoo:steps"]}, "parents"),
        ({"base": None}, "base"),
        ({"space": SMALL["space"] | {"knobs": {"weight": [0.0, 1.0]}}}, "space.knobs.weight"),
        (
            {"objectives": [{"task": "zoo_l2_maths", "metric": "exact_match", "weight": 2.0}]},
            "objectives",
        ),
        ({"evaluation": SMALL["evaluation"]}, "evaluation.fewshot"),
        ({"optimizer": {"population": 4, "name": "cma"}}, "optimizer.name"),
        ({"seed": 4, "optimizer": {"name": "auto"}}, "seed`, `optimizer.population"),
        ({"executor": {"order": "arrival"}}, "executor.order"),
    ],
)
def test_another_search_is_refused(begun: RunFolder, changes: dict[str, Any], keys: str) -> None:
    """Also if a key was removed or is `auto`, for which the run has what it was resolved to."""
    with pytest.raises(RunFolderError, match=f"holds another search .* differs in `{keys}`;"):
        changed(begun, **changes)
