"""The law of width: a search does not depend on how many jobs run at a time or which ends first."""

from __future__ import annotations

import contextlib
import random
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import DOCUMENTS, ScriptedExecutor, search, trajectory, unit

from evomerge.errors import SearchError
from evomerge.execute.protocol import Job
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.scores import Expected, Scores

pytestmark = pytest.mark.thorough

OPTIMIZERS = ["cma", "nevergrad:DE", "random", "nevergrad:OnePlusOne"]
FEW = settings(max_examples=draws(15), deadline=None)


def run(folder: Path, width: int, seed: int, **options: object) -> History:
    failing = float(options.pop("failing", 0.1))  # type: ignore[arg-type]
    executor = ScriptedExecutor(width, random.Random(seed), failing)
    return search(folder, executor, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("recent", [None, 5])
def test_every_width_gives_the_same_trajectory(tmp_path, optimizer, recent):
    options = {"optimizer": optimizer, "recent": recent, "candidates": 70}
    alone = trajectory(run(tmp_path / "alone", 1, 0, **options))
    for width, seed in ((1, 1), (3, 2), (64, 3)):
        wide = run(tmp_path / f"{width}-{seed}", width, seed, **options)
        assert trajectory(wide) == alone


@FEW
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    widths=st.lists(st.integers(1, 40), min_size=4, max_size=4),
    deaths=st.lists(st.integers(0, 30), max_size=3),
    seed=st.integers(0, 1000),
    failing=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_killed_and_resumed_with_other_widths_the_search_is_the_same(
    optimizer, widths, deaths, seed, failing
):
    options = {"optimizer": optimizer, "candidates": 33}
    with tempfile.TemporaryDirectory() as name:
        whole = run(Path(name, "whole"), 1, seed, failing=failing, **options)
        broken, scored = Path(name, "broken"), []
        for width, dies_after in zip(widths, [*deaths, None], strict=False):
            executor = ScriptedExecutor(width, random.Random(seed), failing, dies_after)
            try:
                history = search(broken, executor, **options)
            except SearchError as error:
                assert str(error) == "killed"
            scored += executor.scored
        assert trajectory(history) == trajectory(whole)
        assert len(set(scored)) == len(scored), "something was scored twice"


@FEW
@given(cut=st.integers(0, 10**6), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_journal_cut_at_any_byte_goes_on_to_the_same_end(cut, width, seed):
    with tempfile.TemporaryDirectory() as name:
        whole, broken = Path(name, "whole"), Path(name, "broken")
        end = trajectory(run(whole, 1, seed))
        content = RunFolder(whole).journal_path.read_bytes()
        RunFolder.create(broken, "{}", {"made": "up"})
        RunFolder(broken).journal_path.write_bytes(content[: cut % len(content)])
        assert trajectory(run(broken, width, seed)) == end


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("first", [1, 4, 9, 20])
def test_a_raised_budget_is_the_search_that_had_it_from_the_start(tmp_path, optimizer, first):
    run(tmp_path / "raised", 2, 0, optimizer=optimizer, candidates=first)
    raised = run(tmp_path / "raised", 5, 1, optimizer=optimizer, candidates=40)
    whole = run(tmp_path / "whole", 1, 2, optimizer=optimizer, candidates=40)
    # The first budget has scored finalists too. The search itself must be the same.
    pairs = zip(raised.candidates, whole.candidates, strict=True)
    for one, other in pairs:
        assert (one.digest, one.origin, one.told) == (other.digest, other.origin, other.told)


def stopped_too_early(seed: int) -> ScriptedExecutor:
    """Return an executor whose races stop half of the candidates, good ones among them."""

    def score(job: Job) -> Scores:
        first = next(job.recipe.every_layer()).sources[0].knobs["weight"]
        drawn = 0.3 * unit(seed, job.recipe.digest, job.split)
        right = round((1 - abs(first - 0.7) / 2 + drawn) * DOCUMENTS) / DOCUMENTS
        if job.incumbent is not None and unit(seed, "part", job.recipe.digest) < 0.5:
            low = min(right, job.incumbent.aggregates["task/acc"]) - 0.05
            estimate = {"task/acc": Expected(low, 0.1)}
            return Scores({"task": (0, 1)}, {}, {"task/acc": low}, {}, estimate)
        return Scores({"task": tuple(range(DOCUMENTS))}, {}, {"task/acc": right})

    return ScriptedExecutor(1, random.Random(0), score=score)


def completed_leaders(history: History) -> list[int]:
    """Return the candidates whose complete score is above all that the search went by."""
    told = [item for item in history.candidates if not item.was_estimate]
    best = max(item.fitness or 0.0 for item in told)
    completed = (i for i in history.candidates if i.was_estimate and not i.is_estimate)
    return [item.number for item in completed if (item.fitness or 0.0) > best]


def first_seed(seed: int, run: Callable[[int], History]) -> int:
    """Return a seed, from this one on, whose finals find such leaders: bits of CMA-ES decide."""
    return next(number for number in range(seed, seed + 300) if completed_leaders(run(number)))


@pytest.mark.parametrize(("optimizer", "first", "seed"), [("cma", 13, 8), ("random", 12, 7)])
def test_what_finals_complete_does_not_change_how_a_search_goes_on(
    tmp_path, optimizer, first, seed
):
    def run(name: str, candidates: int, seed: int) -> History:
        executor = stopped_too_early(seed)
        return search(tmp_path / name, executor, optimizer=optimizer, candidates=candidates)

    seed = first_seed(seed, lambda seed: run(f"raised-{seed}", first, seed))
    raised, whole = run(f"raised-{seed}", 35, seed), run("whole", 35, seed)
    for one, other in zip(raised.candidates, whole.candidates, strict=True):
        assert (one.digest, one.incumbent, one.told) == (other.digest, other.incumbent, other.told)


@pytest.mark.parametrize(
    ("optimizer", "order", "patience", "seed"),
    [("random", "generation", 4, 62), ("cma", "arrival", 12, 89)],
)
def test_what_finals_complete_does_not_begin_a_search_again(
    tmp_path, optimizer, order, patience, seed
):
    def run(folder: Path, seed: int) -> History:
        options = {"optimizer": optimizer, "order": order, "patience": patience}
        return search(folder, stopped_too_early(seed), candidates=60, **options)

    seed = first_seed(seed, lambda seed: run(tmp_path / f"whole-{seed}", seed))
    folder = tmp_path / f"whole-{seed}"
    journal = RunFolder(folder).journal_path.read_bytes()
    whole = run(folder, seed)  # has ended
    assert RunFolder(folder).journal_path.read_bytes() == journal
    lines = journal.splitlines(keepends=True)
    for kept in range(len(lines) - 12, len(lines)):
        killed = RunFolder.create(tmp_path / f"killed-{kept}", "{}", {"made": "up"})
        killed.journal_path.write_bytes(b"".join(lines[:kept]))
        assert trajectory(run(killed.path, seed)) == trajectory(whole)


@pytest.mark.parametrize("order", ["generation", "arrival"])
def test_a_search_with_a_raised_budget_may_be_killed_too(tmp_path, order):
    """There is a winner already while the last candidates are scored."""
    options = {"order": order, "optimizer": "nevergrad:DE"}
    run(tmp_path / "run", 3, 0, candidates=12, **options)
    first = RunFolder(tmp_path / "run").journal_path.read_bytes().count(b"\n")
    whole = run(tmp_path / "run", 3, 1, candidates=15, **options)
    lines = RunFolder(tmp_path / "run").journal_path.read_bytes().splitlines(keepends=True)
    for kept in range(first, len(lines)):
        killed = RunFolder.create(tmp_path / f"killed-{kept}", "{}", {"made": "up"})
        killed.journal_path.write_bytes(b"".join(lines[:kept]))
        history = run(killed.path, 1, 1, candidates=15, **options)
        assert len(history.candidates) == 15 and not history.open
        if order == "generation":
            assert trajectory(history) == trajectory(whole)


@FEW
@given(
    optimizer=st.sampled_from(OPTIMIZERS),
    width=st.integers(1, 12),
    dies_after=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_what_arrived_is_replayed_exactly(optimizer, width, dies_after, seed):
    options = {"optimizer": optimizer, "order": "arrival", "candidates": 40}
    with tempfile.TemporaryDirectory() as name:
        executor = ScriptedExecutor(width, random.Random(seed), 0.1, dies_after)
        with contextlib.suppress(SearchError):
            search(Path(name, "run"), executor, **options)
        before = RunFolder(Path(name, "run")).events()
        # The run and a copy of it are resumed, and must propose the same candidates.
        copied = RunFolder.create(Path(name, "copy"), "{}", {"made": "up"})
        copied.journal_path.write_bytes(RunFolder(Path(name, "run")).journal_path.read_bytes())
        ends = [
            run(path, width, seed + 1, order="arrival", optimizer=optimizer, candidates=40)
            for path in (Path(name, "run"), Path(name, "copy"))
        ]
        assert trajectory(ends[0]) == trajectory(ends[1])
        assert RunFolder(Path(name, "run")).events()[: len(before)] == before


def test_by_arrival_with_width_1_each_outcome_is_told_before_the_next_ask(tmp_path):
    run(tmp_path / "run", 1, 0, order="arrival", optimizer="nevergrad:OnePlusOne", candidates=12)
    kinds = [event["event"] for event in RunFolder(tmp_path / "run").events()]
    assert kinds[:7] == ["header", *["ask"] * 3, *["tell"] * 3]
    assert kinds[7:25] == ["ask", "tell"] * 9
