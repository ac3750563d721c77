"""Races stop those that are behind, and only those."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from evomerge.errors import ConfigError
from evomerge.evaluate.evaluator import Evaluator
from evomerge.evaluate.facts import MetricFacts, TaskFacts
from evomerge.evaluate.functions import Function
from evomerge.evaluate.halving import Halving
from evomerge.evaluate.harness import Harness
from evomerge.evaluate.racing import Race, chance
from evomerge.scores import Objective, Scores, fitness, paired_fitness

ACC = Objective("t", "acc")
COUNT = 400


def scores(values: list[float], ids: list[int] | None = None) -> Scores:
    ids = list(range(len(values))) if ids is None else ids
    mean = sum(values) / len(values)
    return Scores({"t": tuple(ids)}, {"t/acc": tuple(values)}, {"t/acc": mean})


def answering(skill: float, seed: int) -> list[float]:
    """Whether a model of that skill answers: documents differ in how hard they are."""
    hardness = random.Random("hardness")
    luck = random.Random(seed)
    return [
        float(luck.random() < min(1, max(0, skill + hardness.uniform(-0.4, 0.4))))
        for _ in range(COUNT)
    ]


def test_chance_is_what_a_simulation_finds() -> None:
    elite = answering(0.6, 0)
    draws = random.Random(1)
    ids = sorted(draws.sample(range(COUNT), 60))
    candidate = [value if draws.random() < 0.8 else 1 - value for value in elite]
    part = scores([candidate[i] for i in ids], ids)
    found = chance([ACC], part, scores(elite))
    differences = [candidate[i] - elite[i] for i in ids]
    ahead = 0
    for _ in range(4000):  # what the others may be, judged by a sample of the sample
        sample = draws.choices(differences, k=60)
        others = draws.choices(sample, k=COUNT - 60)
        ahead += sum(differences) + sum(others) > 0
    assert found == pytest.approx(ahead / 4000, abs=0.03)


class Answering:
    """An evaluator of models that are lists of values."""

    def __init__(self) -> None:
        facts = TaskFacts("t", "function", COUNT, {"acc": MetricFacts(True, True)})
        body = lambda model, tokenizer, ids: {"acc": [model[i] for i in ids]}  # noqa: E731
        self.evaluator = Evaluator(None, [Function(body, facts)])
        self.evaluator.prepare(None, None, {"search": {"t": range(COUNT)}})


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return Answering().evaluator


def test_the_better_is_scored_on_everything_and_the_worse_is_not(evaluator: Evaluator) -> None:
    elite = scores(answering(0.6, 0))
    race = Race(confidence=0.98, minimum=50)
    better = race.run(evaluator, answering(0.8, 1), "search", elite, [ACC])
    worse = race.run(evaluator, answering(0.3, 2), "search", elite, [ACC])
    assert better.fidelity == {"t": COUNT}
    assert better == evaluator.scores(
        evaluator.answer(answering(0.8, 1)), better.seconds["evaluate"]
    )
    assert 50 <= worse.fidelity["t"] < 150


def test_those_as_good_are_seldom_stopped_and_the_estimate_is_unbiased(
    evaluator: Evaluator,
) -> None:
    elite_values = answering(0.6, 0)
    elite = scores(elite_values)
    race = Race(confidence=0.98, minimum=50)
    stopped_ahead, errors = 0, []
    for seed in range(60):
        values = answering(0.62, seed + 10)
        got = race.run(evaluator, values, "search", elite, [ACC])
        if got.fidelity["t"] < COUNT:
            stopped_ahead += sum(values) > sum(elite_values)
            errors.append(paired_fitness([ACC], got, elite) - sum(values) / COUNT)
    assert stopped_ahead <= 4
    assert all(abs(error) < 0.2 for error in errors)


def test_lower_is_better_turns_the_race_round(evaluator: Evaluator) -> None:
    elite = scores(answering(0.6, 0))
    loss = Objective("t", "acc", higher_is_better=False)
    race = Race(minimum=50)
    assert race.run(evaluator, answering(0.9, 1), "search", elite, [loss]).fidelity["t"] < COUNT
    assert race.run(evaluator, answering(0.3, 1), "search", elite, [loss]).fidelity["t"] == COUNT


def test_stretches_hold_every_document_once_and_tasks_in_proportion() -> None:
    race = Race(minimum=50)
    documents = {"a": range(300), "b": range(1000, 1100)}
    stretches = race.stretches(documents)
    for task, ids in documents.items():
        assert sorted(i for stretch in stretches for i in stretch[task]) == list(ids)
    assert sum(map(len, stretches[0].values())) in (50, 51)
    for stretch in stretches:
        assert len(stretch["a"]) == pytest.approx(3 * len(stretch["b"]), abs=3)


def test_a_race_needs_means_over_documents(tasks: Path) -> None:
    facts = Harness(["t_letter", "g_sizes"], [tasks]).facts
    Race().check([Objective("t_letter", "acc")], facts)
    for task, metric in (("t_letter", "f1"), ("g_sizes", "acc")):
        with pytest.raises(ConfigError, match=r"racing.*not a mean"):
            Race().check([Objective(task, metric)], facts)


def test_a_real_model_is_raced(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_letter"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_letter": range(40)}})
    objective = [Objective("t_letter", "acc")]
    elite = evaluator.score(llama)
    same = Race(minimum=10).run(evaluator, llama, "search", elite, objective)
    assert same.values["t_letter/acc"] == elite.values["t_letter/acc"]
    assert fitness(objective, same) == fitness(objective, elite)


def test_halving_takes_the_better_half_up(evaluator: Evaluator) -> None:
    halving = Halving(first=50, eta=2.0)
    documents = {"t": range(COUNT)}
    rivals: list[Scores] = []
    spent: dict[float, int] = {}
    for seed, skill in enumerate([0.5, 0.6, 0.4, 0.55, 0.45, 0.5, 0.9, 0.1]):
        got = halving.run(evaluator, answering(skill, seed), "search", documents, rivals, [ACC])
        rivals.append(got)
        spent[skill] = got.fidelity["t"]
    assert spent[0.9] == COUNT and spent[0.1] == 50
    assert set(spent.values()) <= {50, 100, 200, COUNT}
