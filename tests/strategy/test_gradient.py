"""Descents as a strategy: rounds, early ends, starts of later descents, replay."""

import math
from dataclasses import replace

import pytest

from evomerge.evaluation.inference.rows import Form
from evomerge.optimize.descent import Chunk, Reached
from evomerge.recipe import Layer, Recipe
from evomerge.scores import Failure, Scores
from evomerge.space.protocol import Gene
from evomerge.strategy.gradient.descents import CHUNK, GradientStrategy
from evomerge.strategy.gradient.lessons import Lessons
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


def values(scores):
    return (scores.aggregates["fitness"],)


def make(**options) -> GradientStrategy:
    return GradientStrategy(
        Plane(),
        Lessons("reference", DOCUMENTS, 0),
        values,
        **{"steps": 30, "rate": 0.05, **options},
    )


def made(chunk: Chunk, watched: float | None = None) -> Reached:
    descent = chunk.descent
    for _ in chunk.batches:
        gradient = [2 * (value - best) for value, best in zip(descent.genome, TARGET, strict=True)]
        descent = descent.step(gradient, Plane.genes, rate=chunk.rate, steps=chunk.steps)
    distance = math.dist(descent.genome, TARGET)
    return Reached(descent, (1.0,) * len(chunk.batches), distance if watched is None else watched)


def scored(genome) -> Scores:
    return Scores({}, {}, {"fitness": 1 - math.dist(genome, TARGET)})


def run(strategy, candidates: int, watched=None) -> list[Origin]:
    strategy.add_baseline(0, "uniform")
    strategy.tell(0, scored((0.5, 0.5)))
    asked: list[Origin] = []
    while len(asked) < candidates:
        for place, chunk in strategy.chunks().items():
            strategy.reach(place, made(chunk, watched))
        generation = [strategy.ask(len(asked) + 1 + i) for i in range(strategy.left)]
        for recipe, origin in generation:
            assert recipe == Plane().decode(origin["genome"])
            asked.append(origin)
            strategy.tell(len(asked), scored(origin["genome"]))
    return asked


def test_candidates_are_the_points_of_one_descent_and_come_near_the_best():
    first, second, third = run(make(), 3)
    assert [each["steps"] for each in (first, second, third)] == [CHUNK, 2 * CHUNK, 3 * CHUNK]
    assert math.dist(third["genome"], TARGET) < 0.1


def test_later_descents_begin_near_the_best_points():
    asked = run(make(), 6)
    assert [each["descent"] for each in asked] == [0, 0, 0, 1, 1, 1]
    strategy = make()
    run(strategy, 3)
    (chunk,) = strategy.chunks().values()
    assert chunk.descent.done == 0
    assert math.dist(chunk.descent.genome, TARGET) < 0.5


def test_a_candidate_that_keeps_the_constraints_comes_first():
    strategy = GradientStrategy(
        Plane(), Lessons("reference", DOCUMENTS, 0), values, lambda scores: scores.aggregates["y"]
    )
    for number, (fitness, broken) in enumerate([(0.9, 0.1), (0.5, 0.0), (0.4, 0.0)]):
        strategy.repeat(number, None, {"genome": [number / 10, 0.0]})
        strategy.tell(number, Scores({}, {}, {"fitness": fitness, "y": broken}))
    assert strategy._ranked(())[0] == (0.1, 0.0)


def test_forms_do_not_depend_on_which_chunk_was_done_first():
    """A chunk that is made again after a kill knows as much as before it."""
    found = {0: {"a": Form(True, "token")}, 1: {"a": Form(True, "stop"), "b": Form(False)}}
    later = []
    for order in ((0, 1), (1, 0)):
        strategy = make(descents=2, forms={"c": Form(True, "none")})
        chunks = strategy.chunks()
        for place in order:
            strategy.reach(place, replace(made(chunks[place]), forms=found[place]))
            assert all(chunk.forms.keys() == {"c"} for chunk in strategy.chunks().values())
        for number in range(2):
            strategy.ask(number)
        later += [chunk.forms for chunk in strategy.chunks().values()]
    assert later == [{"c": Form(True, "none"), **found[1], **found[0]}] * 4


def test_several_descents_make_a_round_together():
    strategy = make(descents=3)
    asked = run(strategy, 6)
    assert strategy.generation == 3
    assert [each["descent"] for each in asked] == [0, 1, 2, 0, 1, 2]
    assert len({tuple(each["genome"]) for each in asked}) == 6


def test_batches_have_documents_of_every_task_and_none_that_is_watched():
    strategy = make(batch=8)
    (chunk,) = strategy.chunks().values()
    assert len(chunk.batches) == CHUNK
    assert {task: len(ids) for task, ids in chunk.watched.items()} == {"a": 20, "b": 12}
    for documents in chunk.batches:
        assert {task: len(ids) for task, ids in documents.items()} == {"a": 4, "b": 4}
        assert not any(set(ids) & set(chunk.watched[task]) for task, ids in documents.items())
    assert chunk.batches[0] != chunk.batches[1]


def test_a_descent_ends_early_if_the_watched_loss_does_not_fall():
    asked = run(make(steps=200), 5, watched=1.0)
    assert [each["descent"] for each in asked] == [0, 0, 0, 1, 1]


def test_failures_do_not_break_it():
    strategy = make()
    strategy.add_baseline(0, "uniform")
    strategy.tell(0, Failure("merge", "no"))
    for number in range(1, 5):
        for place, chunk in strategy.chunks().items():
            failed = chunk.descent.failed_step()
            strategy.reach(place, Reached(failed, (None,), None))
        _, origin = strategy.ask(number)
        strategy.tell(number, Failure("evaluate", "no"))
        assert origin["genome"] == [0.5, 0.5] or number > 2


def test_the_descents_of_a_front_weigh_the_objectives_differently():
    both = lambda scores: (scores.aggregates["one"], scores.aggregates["two"])  # noqa: E731
    lessons = Lessons("reference", DOCUMENTS, 0)
    strategy = GradientStrategy(Plane(), lessons, both, steps=10, descents=3, weighed=2)
    chunks = strategy.chunks()
    equal, first, second = (chunks[place].weights for place in range(3))
    assert equal == (0.5, 0.5)
    assert first == second[::-1] == pytest.approx((0.9, 0.1))
    for place, chunk in chunks.items():
        strategy.reach(place, made(chunk))
    genomes = []
    for number, (one, two) in enumerate([(0.5, 50.0), (1.0, 0.0), (0.0, 100.0)]):
        genomes.append(strategy.ask(number)[1]["genome"])
        strategy.tell(number, Scores({}, {}, {"one": one, "two": two}))
    assert strategy._ranked((0.9, 0.1))[0] == tuple(genomes[1])
    assert strategy._ranked((0.1, 0.9))[0] == tuple(genomes[2])
    assert sum(strategy.chunks()[0].weights) == pytest.approx(1.0)
