"""Descents as a strategy: rounds, early ends, starts of later descents, replay."""

import math
from dataclasses import asdict

import pytest

from evomerge.evaluation.inference.rows import Form
from evomerge.recipe import Layer, Recipe
from evomerge.run.ranking import ParetoFront, WeightedSum
from evomerge.scores import Constraint, Failure, Objective, Scores
from evomerge.space.protocol import Gene
from evomerge.strategy.gradient.descent import SEGMENT
from evomerge.strategy.gradient.descents import GradientStrategy
from evomerge.strategy.gradient.lessons import Lessons
from evomerge.strategy.gradient.segment import Segment, SegmentResult
from evomerge.strategy.protocol import Origin

DOCUMENTS = {"a": range(100), "b": range(60)}
TARGET = (0.9, 0.2)


class Plane:
    """Two weights; the best merge is at `TARGET`."""

    genes = (Gene("x", "real", 0.0, 1.0, 0.5), Gene("y", "real", 0.0, 1.0, 0.5))
    max_depth = 1

    def decode(self, genome):
        return Recipe(
            "host", {}, Layer("", ()), Layer("", (), knobs=dict(zip("xy", genome, strict=True)))
        )

    def baselines(self):
        return {}

    def baseline_genomes(self):
        return {"uniform": [(0.5, 0.5)]}


RANKING = WeightedSum([Objective("a", "acc")], [Constraint("a", "size", at_most=0.0)])


def make(ranking=RANKING, **options) -> GradientStrategy:
    lessons = Lessons("reference", DOCUMENTS, 0)
    return GradientStrategy(Plane(), lessons, ranking, **{"steps": 30, "rate": 0.05, **options})


def made(segment: Segment, watched: float | None = None, **changes) -> dict:
    descent = segment.descent
    for _ in segment.batches:
        gradient = [2 * (value - best) for value, best in zip(descent.genome, TARGET, strict=True)]
        descent = descent.step(gradient, Plane.genes, rate=segment.rate, steps=segment.steps)
    loss = math.dist(descent.genome, TARGET) if watched is None else watched
    return asdict(SegmentResult(descent, (1.0,) * len(segment.batches), loss, **changes))


def scored(genome, size: float = 0.0) -> Scores:
    return Scores({}, {}, {"a/acc": 1 - math.dist(genome, TARGET), "a/size": size})


def run(strategy, candidates: int, watched=None) -> list[Origin]:
    strategy.add_baseline(0, "uniform")
    strategy.tell(0, scored((0.5, 0.5)))
    asked: list[Origin] = []
    while len(asked) < candidates:
        for slot, segment in strategy.preparations().items():
            strategy.prepared(slot, made(segment, watched))
        generation = [strategy.ask(len(asked) + 1 + i) for i in range(strategy.left)]
        for recipe, origin in generation:
            assert recipe == Plane().decode(origin["genome"])
            asked.append(origin)
            strategy.tell(len(asked), scored(origin["genome"]))
    return asked


def test_candidates_are_the_points_of_one_descent_and_come_near_the_best():
    first, second, third = run(make(), 3)
    assert [each["steps"] for each in (first, second, third)] == [SEGMENT, 2 * SEGMENT, 3 * SEGMENT]
    assert math.dist(third["genome"], TARGET) < 0.1


def test_later_descents_begin_near_the_best_points():
    asked = run(make(), 6)
    assert [each["descent"] for each in asked] == [0, 0, 0, 1, 1, 1]
    strategy = make()
    run(strategy, 3)
    (segment,) = strategy.preparations().values()
    assert segment.descent.done == 0
    assert math.dist(segment.descent.genome, TARGET) < 0.5


def test_forms_do_not_depend_on_which_segment_was_done_first():
    """A segment that is made again after a kill knows as much as before it."""
    found = {0: {"a": Form(True, "token")}, 1: {"a": Form(True, "stop"), "b": Form(False)}}
    later = []
    for order in ((0, 1), (1, 0)):
        strategy = make(generation=2, forms={"c": Form(True, "none")})
        segments = strategy.preparations()
        for slot in order:
            strategy.prepared(slot, made(segments[slot], forms=found[slot]))
            assert all(other.forms.keys() == {"c"} for other in strategy.preparations().values())
        for number in range(2):
            strategy.ask(number)
        later += [segment.forms for segment in strategy.preparations().values()]
    assert later == [{"c": Form(True, "none"), **found[1], **found[0]}] * 4


def test_batches_have_documents_of_every_task_and_none_that_is_watched():
    strategy = make(batch=8)
    (segment,) = strategy.preparations().values()
    assert len(segment.batches) == SEGMENT
    watched = segment.lesson.watched
    assert {task: len(ids) for task, ids in watched.items()} == {"a": 20, "b": 12}
    for documents in segment.batches:
        assert {task: len(ids) for task, ids in documents.items()} == {"a": 4, "b": 4}
        assert not any(set(ids) & set(watched[task]) for task, ids in documents.items())
    assert segment.batches[0] != segment.batches[1]


def test_a_descent_ends_early_if_the_watched_loss_does_not_fall():
    asked = run(make(steps=200), 5, watched=1.0)
    assert [each["descent"] for each in asked] == [0, 0, 0, 1, 1]


def test_failures_do_not_break_it():
    strategy = make()
    strategy.add_baseline(0, "uniform")
    strategy.tell(0, Failure("merge", "no"))
    for number in range(1, 5):
        for slot, segment in strategy.preparations().items():
            strategy.prepared(slot, segment.failed("no"))
        _, origin = strategy.ask(number)
        strategy.tell(number, Failure("evaluate", "no"))
        assert origin["genome"] == [0.5, 0.5] or number > 2


def test_the_descents_of_a_front_weigh_the_objectives_differently():
    both = ParetoFront([Objective("a", "one"), Objective("a", "two")])
    strategy = make(both, steps=10, generation=3)
    segments = strategy.preparations()
    equal, first, second = (segments[slot].weights for slot in range(3))
    assert equal == (0.5, 0.5)
    assert first == second[::-1] == pytest.approx((0.9, 0.1))
    for slot, segment in segments.items():
        strategy.prepared(slot, made(segment))
    genomes = []
    for number, (one, two) in enumerate([(0.5, 50.0), (1.0, 0.0), (0.0, 100.0)]):
        genomes.append(strategy.ask(number)[1]["genome"])
        strategy.tell(number, Scores({}, {}, {"a/one": one, "a/two": two}))
    assert strategy._ranked((0.9, 0.1))[0] == tuple(genomes[1])
    assert strategy._ranked((0.1, 0.9))[0] == tuple(genomes[2])
    assert sum(strategy.preparations()[0].weights) == pytest.approx(1.0)
