"""The greedy soup: the parents it takes, and the laws of width and resuming with it."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import OBJECTIVES, ScriptedExecutor, search, space, trajectory

from evomerge.errors import SearchError
from evomerge.run.folder import RunFolder
from evomerge.run.history import Candidate
from evomerge.scores import Failure, Scores
from evomerge.searching.ranking import WeightedSum
from evomerge.searching.soup import find_greedy_soup
from evomerge.setup.strategy import recipe_of

pytestmark = pytest.mark.thorough

FEW = settings(max_examples=draws(15), deadline=None)
ASKED = {"greedy_soup": True, "candidates": 40}


def run(folder, width, seed, dies_after=None, failing=0.1, **options):
    executor = ScriptedExecutor(width, random.Random(seed), failing, dies_after)
    return search(folder, executor, **(ASKED | options)), executor


def scored(number: int, label: str | None, value: float | None) -> Candidate:
    found = Candidate(number, label, f"{number:064x}")
    if value is None:
        found.outcomes["search"] = Failure("merge", "not finite")
    else:
        found.values = (value,)
        found.outcomes["search"] = Scores({"task": (0,)}, {}, {"task/acc": value})
    return found


def soup(parents, averages):
    """The soup of parents with these scores, and the averages that were tried."""
    tried, numbers = [], itertools.count(100)

    def try_out(members):
        tried.append("".join(members))
        return scored(next(numbers), None, averages[frozenset(members)])

    candidates = [scored(n, label, value) for n, (label, value) in enumerate(parents.items())]
    return find_greedy_soup(candidates, WeightedSum(OBJECTIVES), try_out), tried


def test_parents_are_added_from_the_best_down_while_the_score_does_not_drop():
    averages = {frozenset("ca"): 0.5, frozenset("cb"): 0.6, frozenset("cbd"): 0.6}
    parents = {"a": 0.5, "b": 0.4, "c": 0.6, "d": 0.1}
    assert soup(parents, averages) == (("c", "b", "d"), ["ca", "cb", "cbd"])


def test_what_failed_is_left_out():
    averages = {frozenset("ca"): None, frozenset("cd"): 0.9}
    parents = {"a": 0.5, "b": None, "c": 0.6, "d": 0.1}
    assert soup(parents, averages) == (("c", "d"), ["ca", "cd"])
    assert soup(dict.fromkeys("abc"), {}) == (None, [])


@pytest.mark.parametrize("order", ["generation", "arrival"])
def test_the_soup_is_a_baseline_and_its_steps_are_not(tmp_path, order):
    history, _ = run(tmp_path / "run", 3, 0, failing=0.0, order=order)
    labels = [item.label for item in history.candidates[:12]]
    assert labels == [*"abcde", "uniform", *[None] * 4, "greedy soup", None]
    steps, found = history.candidates[6:10], history.candidates[10]
    names = [f"soup of {len(item.origin['soup'])} parents" for item in steps]
    assert [item.name for item in steps] == names
    assert all(item.generation is None and item.is_soup_step for item in steps)
    assert history.candidates[11].is_proposed
    best = {item.label: item.fitness for item in history.baselines}
    assert best["greedy soup"] >= max(best[name] for name in "abcde")
    assert recipe_of(space("abcde"), found).embeddings.sources
    # It was scored once on the search documents: it is one of the steps, or a parent.
    digests = [item.digest for item in history.candidates[:10]]
    assert found.digest in digests
    assert {"validation", "test"} <= set(found.outcomes)
    assert all(set(item.outcomes) == {"search"} for item in steps)


@pytest.mark.parametrize("optimizer", ["cma", "random", "nevergrad:OnePlusOne"])
def test_every_width_gives_the_same_trajectory(tmp_path, optimizer):
    alone, _ = run(tmp_path / "alone", 1, 0, optimizer=optimizer)
    for width, seed in ((3, 2), (64, 3)):
        wide, _ = run(tmp_path / f"{width}", width, seed, optimizer=optimizer)
        assert trajectory(wide) == trajectory(alone)


@FEW
@given(
    order=st.sampled_from(["generation", "arrival"]),
    widths=st.lists(st.integers(1, 20), min_size=4, max_size=4),
    deaths=st.lists(st.integers(0, 20), max_size=3),
    seed=st.integers(0, 1000),
    failing=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_killed_and_resumed_nothing_is_scored_twice(order, widths, deaths, seed, failing):
    options = {"failing": failing, "order": order}
    with tempfile.TemporaryDirectory() as name:
        whole, _ = run(Path(name, "whole"), 1, seed, **options)
        broken, everything = Path(name, "broken"), []
        for width, dies_after in zip(widths, [*deaths, None], strict=False):
            executor = ScriptedExecutor(width, random.Random(seed), failing, dies_after)
            try:
                history = search(broken, executor, **(ASKED | {"order": order}))
            except SearchError as error:
                assert str(error) == "killed"
            everything += executor.scored
        assert len(set(everything)) == len(everything), "something was scored twice"
        if order == "generation":
            assert trajectory(history) == trajectory(whole)
        pairs = zip(history.candidates[:11], whole.candidates[:11], strict=True)
        assert all((a.digest, a.label, a.told) == (b.digest, b.label, b.told) for a, b in pairs)


@FEW
@given(cut=st.integers(0, 10**6), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_journal_cut_at_any_byte_goes_on_to_the_same_end(cut, width, seed):
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        end = trajectory(run(whole, 1, seed)[0])
        content = RunFolder(whole).journal_path.read_bytes()
        RunFolder.create(broken, {"made": "up"})
        RunFolder(broken).journal_path.write_bytes(content[: cut % len(content)])
        assert trajectory(run(broken, width, seed)[0]) == end


@pytest.mark.parametrize("first", [3, 6, 8, 10, 11, 14])
def test_a_raised_budget_is_the_search_that_had_it_from_the_start(tmp_path, first):
    run(tmp_path / "raised", 2, 0, candidates=first)
    raised, _ = run(tmp_path / "raised", 5, 1)
    whole, _ = run(tmp_path / "whole", 1, 2)
    for one, other in zip(raised.candidates, whole.candidates, strict=True):
        assert (one.digest, one.origin, one.told) == (other.digest, other.origin, other.told)
