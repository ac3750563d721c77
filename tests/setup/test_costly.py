"""Warnings of searches whose candidates merge whole matrices anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from search_run import write_search

from evomerge.cli.catalogue import LISTS
from evomerge.config.schema import load
from evomerge.merging.methods import get_method
from evomerge.merging.methods.matrices import SVD_SECONDS, merge_seconds
from evomerge.setup import estimate
from evomerge.setup.estimate import costly_warning
from evomerge.setup.memory import prepared_bytes
from evomerge.setup.preflight import warnings
from evomerge.setup.runs import prepare


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("costly")
    space = {"kind": "parameters", "method": "tsv", "groups": "one", "knobs": {"lambda": [0, 2]}}
    return prepare(load(write_search(folder, space=space)), folder)


def with_space(problem, **changes):
    space = problem.config.space.model_copy(update=changes)
    return replace(problem, config=problem.config.model_copy(update={"space": space}))


def test_a_merge_that_candidates_share_is_not_warned_of(problem):
    assert costly_warning(problem) is None
    assert costly_warning(with_space(problem, method="ties", most_parents=2)) is None
    paths = with_space(problem, kind="dataflow", most_parents=2)
    assert costly_warning(paths) is None


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"most_parents": 2}, "candidates of a pool merge different parents"),
        ({"kind": "joint"}, "the layers of a path change places"),
    ],
)
def test_a_merge_that_candidates_compute_anew_is_warned_of_with_its_cost(problem, space, words):
    note = costly_warning(with_space(problem, **space))
    assert note is not None and words in note
    assert "s of CPU time, for nearly every candidate anew" in note and "`merge:FILE.yaml`" in note


def test_a_merge_that_memory_cannot_keep_is_warned_of(problem, monkeypatch):
    class Room:
        prepared = prepared_bytes(problem) - 1

    monkeypatch.setattr(estimate.MemoryShare, "of_machine", lambda workers: Room)
    assert "memory is too small" in str(costly_warning(problem))
    Room.prepared += 1
    assert costly_warning(problem) is None


def test_validate_says_it(problem):
    pool = with_space(problem, most_parents=2)
    assert any("'tsv', whose merge takes" in note for note in warnings(pool, allow_benchmarks=True))


def test_the_cost_grows_with_matrices_and_sources():
    tsv = get_method("tsv")
    one = merge_seconds(tsv, [(2048, 2048)], 2)
    assert one == 4 * SVD_SECONDS
    assert merge_seconds(tsv, [(1024, 1024)] * 2 + [(2048,)], 2) == pytest.approx(one / 4)
    assert merge_seconds(tsv, [(8, 1024, 1024)], 2) == pytest.approx(one)
    assert merge_seconds(tsv, [(4096, 2048)], 2) == pytest.approx(2 * one)
    assert merge_seconds(tsv, [(2048, 2048)], 4) == pytest.approx(1.5 * one)
    assert merge_seconds(get_method("ties"), [(2048, 2048)], 4) == 0


def test_the_list_of_methods_says_which_are_costly():
    titles = {row["name"]: row["title"] for row in LISTS["methods"]()}
    costly_ones = {name for name, title in titles.items() if "costly" in title}
    assert "tsv" in costly_ones and not costly_ones & {"linear", "ties", "slerp"}
