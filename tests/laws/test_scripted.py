"""The laws of searches whose outcomes are made up: thousands of candidates, any width, any kill."""

import contextlib
import itertools
import random
import tempfile
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from draws import draws
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import (
    OBJECTIVES,
    ScriptedExecutor,
    course,
    outcome_of,
    search,
    space,
    trajectory,
)

from evomerge.errors import SearchError
from evomerge.evaluation.inference.rows import ANY, Form
from evomerge.execute.protocol import Job, Result, WorkResult
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.ranking import ParetoFront, WeightedSum
from evomerge.scores import Constraint, Objective, Scores
from evomerge.strategy.gradient.descents import GradientStrategy
from evomerge.strategy.gradient.lessons import Lessons
from evomerge.strategy.gradient.segment import Segment, SegmentResult

pytestmark = pytest.mark.thorough

SPACE = space()
LEARNED = {"task": range(100)}
FRONT = ParetoFront(
    (*OBJECTIVES, Objective("task", "size", higher_is_better=False)),
    (Constraint("task", "acc", at_least=0.4),),
)


def walked(job: Job) -> Result:
    """Make a segment, to weights near 0.7 that depend on what is learned, or score a candidate."""
    if not isinstance(segment := job.work, Segment):
        outcome = outcome_of(job)
        if isinstance(outcome, Scores):  # documents of several candidates, so their order counts
            ids = [(7 * job.candidate + step) % 100 for step in range(30)]
            outcome = replace(outcome, right={"task": dict.fromkeys(ids, f"by {job.candidate}")})
        return outcome
    descent = segment.descent
    texts = "".join(segment.lesson.answers.get("task", {}).values())
    for batch in segment.batches:
        wanted = 0.6 + (sum(batch["task"]) + sum(map(ord, texts))) % 97 / 500
        gradient = [2 * (value - wanted) for value in descent.genome]
        descent = descent.step(gradient, SPACE.genes, rate=segment.rate, steps=segment.steps)
    losses = (1.0,) * len(segment.batches)
    result = SegmentResult(descent, losses, 1 / descent.done, {ANY: Form(delimiter=False)})
    return WorkResult(fields=asdict(result))


def descents(loss: str) -> dict[str, Any]:
    """Return the options of a search by gradients of a loss."""
    generated = {"task"} if loss == "successes" else set()

    def make() -> GradientStrategy:
        lessons = Lessons(loss, LEARNED, 3, generated=generated)  # type: ignore[arg-type]
        ranking = WeightedSum(OBJECTIVES)
        return GradientStrategy(SPACE, lessons, ranking, steps=20, generation=3, seed=3)

    return {"candidates": 24, "searched": SPACE, "make": make, "score": walked}


KINDS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name} for name in ("cma", "random", "nevergrad:OnePlusOne")},
    "nevergrad:DE": {"optimizer": "nevergrad:DE"},
    "fresh documents": {"optimizer": "cma", "fresh": 3, "candidates": 75},
    "fresh documents after starts": {
        "optimizer": "cma-margin",
        "fresh": 3,
        "candidates": 75,
        "start": [(0.2,) * 4, (0.7,) * 4],
    },
    "front": {"optimizer": "nsga2", "ranking": FRONT, "candidates": 45},
    "patience": {"optimizer": "cma", "patience": 25, "candidates": 400},
    "target": {"optimizer": "nevergrad:DE", "target": 0.9, "candidates": 400},
    "gradient": descents("reference"),
    "successes": descents("successes"),
}
"""Kind of search -> its options. All are told generation by generation."""


def run(
    folder: Path, width: int, seed: int, dies_after: int | None = None, **options: Any
) -> History:
    failing, score = options.pop("failing", 0.1), options.pop("score", outcome_of)
    executor = ScriptedExecutor(width, random.Random(seed), failing, dies_after, score)
    return search(folder, executor, **options)


def continued(folder: Path, journal: bytes) -> Path:
    """Return a run folder with a journal."""
    RunFolder.create(folder, "{}", {"made": "up"}).journal_path.write_bytes(journal)
    return folder


def journal(folder: Path) -> bytes:
    return RunFolder(folder).journal_path.read_bytes()


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=draws(5), deadline=None)
@given(
    widths=st.lists(st.integers(1, 64), min_size=4, max_size=4),
    deaths=st.lists(st.integers(0, 30), max_size=3),
    seed=st.integers(0, 1000),
    failing=st.sampled_from([0.0, 0.1, 0.4]),
)
def test_killed_and_resumed_with_any_widths_the_search_is_the_same(
    kind, widths, deaths, seed, failing
):
    options = {"candidates": 33, **KINDS[kind]}
    score = options.pop("score", outcome_of)
    with tempfile.TemporaryDirectory() as name:
        whole = run(Path(name, "whole"), 1, seed, failing=failing, score=score, **options)
        broken, scored = Path(name, "broken"), []
        for width, dies_after in zip(widths, [*deaths, None], strict=False):
            executor = ScriptedExecutor(width, random.Random(seed), failing, dies_after, score)
            try:
                history = search(broken, executor, **options)
            except SearchError as error:
                assert str(error) == "killed"
            scored += executor.scored
        assert trajectory(history) == trajectory(whole)
        jobs = scored if kind not in ("gradient", "successes") else []  # so are segments
        assert len(set(jobs)) == len(jobs), "something was scored twice"
    if kind == "front" and whole.front:
        assert whole.winner in whole.front
        members = [item.scores("validation").aggregates for item in whole.front]
        assert len({(m["task/acc"], m["task/size"]) for m in members}) == len(members)
        assert all("test" in item.outcomes for item in whole.front)


def test_a_segment_is_made_once_and_knows_the_form_that_the_first_one_found(tmp_path):
    made = run(tmp_path / "run", 4, 1, **KINDS["gradient"]).preparations
    assert made and len(made) == len({(event["candidate"], event["place"]) for event in made})
    assert {event["forms"][ANY]["delimiter"] for event in made} == {False}


@settings(max_examples=draws(15), deadline=None)
@given(cut=st.integers(0, 10**6), width=st.integers(1, 9), seed=st.integers(0, 99))
def test_a_journal_cut_at_any_byte_goes_on_to_the_same_end(cut, width, seed):
    with tempfile.TemporaryDirectory() as name:
        end = trajectory(run(Path(name, "whole"), 1, seed))
        content = journal(Path(name, "whole"))
        broken = continued(Path(name, "broken"), content[: cut % len(content)])
        assert trajectory(run(broken, width, seed)) == end


@pytest.mark.parametrize(
    "kind", ["cma", "nevergrad:DE", "target", "fresh documents", "fresh documents after starts"]
)
@pytest.mark.parametrize("first", [1, 4, 9, 20])
def test_a_raised_budget_is_the_search_that_had_it_from_the_start(tmp_path, kind, first):
    """Also where a generation was cut off, whose first outcomes reach the target."""
    options = {**KINDS[kind], "candidates": 60}
    run(tmp_path / "raised", 2, 0, **options | {"candidates": first})
    raised = run(tmp_path / "raised", 5, 1, **options)
    assert course(raised) == course(run(tmp_path / "whole", 1, 2, **options))


@pytest.mark.parametrize("order", ["generation", "arrival"])
@settings(max_examples=draws(12), deadline=None)
@given(stops=st.lists(st.integers(1, 45), min_size=1, max_size=3), width=st.integers(1, 9))
def test_a_stopped_search_has_a_winner_and_goes_on_to_the_same_end(order, stops, width):
    width = width if order == "generation" else 1  # by arrival, the width changes the course
    options: dict[str, Any] = {"candidates": 40, "order": order}

    def go(folder: str, stop: int | None = None) -> History:
        executor = ScriptedExecutor(width, random.Random(0), failing=0.1)
        asked = lambda: stop is not None and len(executor.scored) >= stop  # noqa: E731
        return search(Path(name, folder), executor, stop=asked, **options)

    with tempfile.TemporaryDirectory() as name:
        whole, before = go("whole"), 0
        for stop in stops:
            history = go("stopped", stop)
            assert history.winner is not None and "test" in history.winner.outcomes
            assert len(history.finished) - before <= stop + width, "what had not begun was scored"
            before = len(history.finished)
        assert course(go("stopped")) == course(whole)


@pytest.mark.parametrize("bound", [{"patience": 4, "optimizer": "nevergrad:DE"}, {"target": 0.9}])
def test_it_may_be_stopped_between_two_proposals(tmp_path, bound):
    """Outcomes of a part of a generation, or of the baselines, must not end the search later."""

    def go(folder: Path, stop: Callable[[], bool] = lambda: False) -> History:
        return run(folder, 1, 0, failing=0.0, stop=stop, **bound)

    whole = course(go(tmp_path / "whole"))
    for moment in range(1, 40, 2):
        looks, folder = itertools.count(), tmp_path / f"{moment}"
        with contextlib.suppress(SearchError):  # nothing was scored yet
            go(folder, lambda looks=looks, moment=moment: next(looks) >= moment)
        assert course(go(folder)) == whole, moment


@pytest.mark.parametrize("order", ["generation", "arrival"])
def test_a_search_with_a_raised_budget_may_be_killed_too(tmp_path, order):
    """There is a winner already while the last candidates are scored."""
    options = {"order": order, "optimizer": "nevergrad:DE"}
    run(tmp_path / "run", 3, 0, candidates=12, **options)
    first = journal(tmp_path / "run").count(b"\n")
    whole = run(tmp_path / "run", 3, 1, candidates=15, **options)
    lines = journal(tmp_path / "run").splitlines(keepends=True)
    for kept in range(first, len(lines)):
        killed = continued(tmp_path / f"killed-{kept}", b"".join(lines[:kept]))
        history = run(killed, 1, 1, candidates=15, **options)
        assert len(history.candidates) == 15 and not history.open
        if order == "generation":
            assert trajectory(history) == trajectory(whole)


@settings(max_examples=draws(15), deadline=None)
@given(
    optimizer=st.sampled_from(["cma", "nevergrad:DE", "random", "nevergrad:OnePlusOne"]),
    width=st.integers(1, 12),
    dies_after=st.integers(0, 40),
    seed=st.integers(0, 99),
)
def test_what_arrived_is_replayed_exactly(optimizer, width, dies_after, seed):
    options = {"optimizer": optimizer, "order": "arrival", "candidates": 40}
    with tempfile.TemporaryDirectory() as name:
        with contextlib.suppress(SearchError):
            run(Path(name, "run"), width, seed, dies_after, **options)
        before = RunFolder(Path(name, "run")).events()
        # The run and a copy of it are resumed, and must propose the same candidates.
        copied = continued(Path(name, "copy"), journal(Path(name, "run")))
        ends = [run(path, width, seed + 1, **options) for path in (Path(name, "run"), copied)]
        assert trajectory(ends[0]) == trajectory(ends[1])
        assert RunFolder(Path(name, "run")).events()[: len(before)] == before


def test_by_arrival_with_width_1_each_outcome_is_told_before_the_next_ask(tmp_path):
    run(tmp_path / "run", 1, 0, order="arrival", optimizer="nevergrad:OnePlusOne", candidates=12)
    kinds = [event["event"] for event in RunFolder(tmp_path / "run").events()]
    assert kinds[:7] == ["header", *["ask"] * 3, *["tell"] * 3]
    assert kinds[7:25] == ["ask", "tell"] * 9
