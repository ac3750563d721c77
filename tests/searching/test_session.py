"""What a session does with outcomes: followers, failures, finals, attempts."""

import json
import logging
import math
import random

import pytest
import scripted
from executor_laws import job_of
from scripted import ScriptedExecutor, outcome_of, search, trajectory

from evomerge.errors import SearchError
from evomerge.execute.inline import InlineExecutor
from evomerge.execute.protocol import MAX_ATTEMPTS, MAX_MACHINES, Attempts
from evomerge.run.folder import RunFolder
from evomerge.run.history import History
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Failure, Scores
from evomerge.searching.loop import MOST_HELD
from evomerge.searching.session import SAME_FAILURES


class AnsweringExecutor(ScriptedExecutor):
    """A scripted executor, but `answer(job)` replaces its outcome unless it is None."""

    def __init__(self, answer, width: int = 1) -> None:
        super().__init__(width, random.Random(0))
        self.answer = answer

    def run(self, jobs):
        for job, outcome in super().run(jobs):
            said = self.answer(job)
            yield job, outcome if said is None else said


def test_a_follower_that_raises_does_not_change_the_search(tmp_path, caplog):
    seen = []

    def broken(history, event):
        raise ZeroDivisionError("a display fell over")

    followers = [broken, lambda history, event: seen.append(event["event"])]
    with caplog.at_level(logging.WARNING, logger="evomerge"):
        followed = search(
            tmp_path / "a", ScriptedExecutor(2, random.Random(0)), followers=followers
        )
    alone = search(tmp_path / "b", ScriptedExecutor(2, random.Random(0)))
    assert trajectory(followed) == trajectory(alone)
    assert "finals" in seen
    journaled = [event for event in seen if event != "finals"]
    assert journaled == [event["event"] for event in RunFolder(tmp_path / "a").events()[1:]]
    assert [record.message for record in caplog.records].count(
        f"{broken.__qualname__} failed (ZeroDivisionError: a display fell over) and is not "
        "called again; the search goes on."
    ) == 1


def test_the_same_failure_over_and_over_stops_the_search(tmp_path):
    def failing(reason):
        return AnsweringExecutor(
            lambda job: Failure("evaluate", reason(job)) if job.candidate > 4 else None
        )

    different = failing(lambda job: f"{job.candidate}")
    assert len(search(tmp_path / "other", different).candidates) == 30
    with pytest.raises(
        SearchError, match=f"last {SAME_FAILURES} candidates failed in the same way"
    ):
        search(tmp_path / "run", failing(lambda job: "no device"))
    history = History(RunFolder(tmp_path / "run").events())
    assert [item.status for item in history.finished].count("failed") == SAME_FAILURES
    # Without the cause, the resumed search goes on. The failed candidates stay failed.
    history = search(tmp_path / "run", ScriptedExecutor(1, random.Random(0)))
    assert len(history.candidates) == 30
    assert history.winner is not None


def test_no_parent_wins_where_nothing_can_be_validated(tmp_path):
    def answer(job):
        return Failure("evaluate", f"gone {job.candidate}") if job.split == "validation" else None

    with pytest.raises(SearchError, match="could be scored on the validation documents"):
        search(tmp_path / "run", AnsweringExecutor(answer))
    assert History(RunFolder(tmp_path / "run").events()).winner is None
    # The cause may be gone by now, so a resumed search tries again.
    assert search(tmp_path / "run", ScriptedExecutor(1, random.Random(0))).winner is not None


def test_a_value_that_is_not_finite_is_a_failure(tmp_path):
    nan = Scores({"task": (0,)}, {}, {"task/acc": math.nan})
    executor = AnsweringExecutor(lambda job: nan if job.candidate == 5 else None)
    history = search(tmp_path / "run", executor)
    failed = history.candidates[5]
    assert failed.status == "failed" and failed.values is None
    assert failed not in WeightedSum(scripted.OBJECTIVES).finalists(history.candidates, 99)


def test_processes_that_end_in_a_job_are_counted(tmp_path):
    killed = []
    for lives in range(MAX_ATTEMPTS):
        attempts = Attempts(tmp_path)
        assert attempts.count(job_of(7)) == (lives, 0)
        with pytest.raises(KeyboardInterrupt), attempts.trying(job_of(7)):
            raise KeyboardInterrupt  # does not count: the job is withdrawn
        killed.append(attempts.trying(job_of(7)))
        killed[-1].__enter__()  # begun and never ended, as after a kill
    assert Attempts(tmp_path).count(job_of(7)) == (MAX_ATTEMPTS, 0)
    assert Attempts(tmp_path).count(job_of(8)) == (0, 0)


@pytest.mark.parametrize(
    ("machines", "count", "said"),
    [
        (["one", "two", "three"], (0, 3), None),
        (["one", "one", "one", "two"], (2, 2), None),  # one machine is not lost three times
        (["one"] * 4, (3, 1), "3 processes ended"),
        ([None, None, None], (0, 3), None),
        ([None] * MAX_MACHINES, (0, MAX_MACHINES), f"{MAX_MACHINES} machines were lost"),
        (["", "", ""], (3, 0), "3 processes ended"),
    ],
)
def test_a_machine_that_is_lost_is_hardly_the_fault_of_a_candidate(tmp_path, machines, count, said):
    """Three power cuts marked a candidate as failed."""
    begins = [{"job": "7 validation", "what": "begins", "machine": name} for name in machines]
    (tmp_path / "attempts.jsonl").write_text("\n".join(map(json.dumps, begins)) + "\n")
    attempts = Attempts(tmp_path)
    assert attempts.count(job_of(7)) == count
    failure = attempts.given_up(job_of(7))
    assert (failure is None) if said is None else failure.reason.startswith(said)
    attempts.note_loss(job_of(7), with_machine=True)
    attempts.note_loss(job_of(7))
    grown = (count[0] + 1, count[1] + 1)
    assert attempts.count(job_of(7)) == Attempts(tmp_path).count(job_of(7)) == grown
    with attempts.trying(job_of(7)):
        pass
    assert Attempts(tmp_path).count(job_of(7)) == (0, 0)


@pytest.mark.parametrize("ended", [MAX_ATTEMPTS - 1, MAX_ATTEMPTS])
def test_a_lost_candidate_fails_and_the_others_are_the_same(tmp_path, ended):
    def go(name, **options):
        notes = tmp_path / f"notes of {name}"
        notes.mkdir(exist_ok=True)
        executor = InlineExecutor(outcome_of, Attempts(notes))
        return search(tmp_path / name, executor, **options)

    whole = go("whole")
    go("run", candidates=6)
    attempts = tmp_path / "notes of run" / "attempts.jsonl"
    attempts.write_text('{"job": "8 search", "what": "begins"}\n' * ended)
    history = go("run")
    lost = history.candidates[8].first_outcome
    assert (isinstance(lost, Failure) and lost.stage == "lost") is (ended == MAX_ATTEMPTS)
    # Three baselines and a generation of eight, which was asked before any of it was told.
    count = 11 if ended == MAX_ATTEMPTS else None
    assert [item.digest for item in history.candidates[:count]] == [
        item.digest for item in whole.candidates[:count]
    ]


class Alternating:
    generation = left = 1

    def __init__(self) -> None:
        self.space = scripted.space()

    def add_baseline(self, number, label):
        return {}

    def ask(self, number):
        genome = (0.2 + 0.6 * (number % 2),) * len(self.space.genes)
        return self.space.decode(genome), {"genome": list(genome)}

    def tell(self, number, outcome):
        pass


@pytest.mark.parametrize(("order", "width"), [("generation", 1), ("arrival", 1), ("arrival", 5)])
def test_a_recipe_is_scored_once(tmp_path, order, width):
    executor = ScriptedExecutor(width, random.Random(0))
    options = {"searched": scripted.space(), "make": Alternating, "order": order}
    history = search(tmp_path / "run", executor, candidates=12, **options)
    assert sum(split == "search" for _, split in executor.scored) == 3 + 2
    assert len(history.finished) == 12
    assert len({str(item.first_outcome) for item in history.candidates[3:]}) == 2


class Same(Alternating):
    def ask(self, number):
        genome = (0.5,) * len(self.space.genes)
        return self.space.decode(genome), {"genome": list(genome)}


def test_by_arrival_few_equal_candidates_wait_for_one_that_is_being_scored(tmp_path):
    """All were asked for, without an end in a search whose candidates have no limit."""
    executor = ScriptedExecutor(3, random.Random(0))
    options = {"searched": scripted.space(), "make": Same, "order": "arrival"}
    history = search(tmp_path / "run", executor, candidates=60, **options)
    events = [it for it in RunFolder(tmp_path / "run").events() if it.get("candidate", 0) > 2]
    first = next(n for n, event in enumerate(events) if event["event"] == "tell")
    assert first == 1 + MOST_HELD
    assert len(history.finished) == 60
    assert sum(split == "search" for _, split in executor.scored) == 3 + 1


class OneTwice(Alternating):
    def ask(self, number):
        genome = (0.01 * (4 if number == 5 else number),) * len(self.space.genes)
        return self.space.decode(genome), {"genome": list(genome)}


def test_by_arrival_what_waits_for_a_failure_is_scored_at_once(tmp_path):
    def fails(job):
        return Failure("evaluate", "twice") if job.candidate in (4, 5) else outcome_of(job)

    executor = ScriptedExecutor(3, random.Random(0), score=fails)
    options = {"searched": scripted.space(), "make": OneTwice, "order": "arrival"}
    told = [item.number for item in search(tmp_path / "run", executor, **options).finished]
    assert told.index(5) < told.index(4) + 4
