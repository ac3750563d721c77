"""Racing stops candidates that are behind, and no others."""

from __future__ import annotations

import itertools
import math
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.errors import ConfigError
from evomerge.evaluation.evaluator import Evaluator
from evomerge.evaluation.racing import Race, chance, check_means, score_in_race
from evomerge.evaluation.tasks.functions import ObjectiveFunction
from evomerge.evaluation.tasks.harness import Harness
from evomerge.evaluation.tasks.info import MetricInfo, TaskInfo
from evomerge.scores import Objective, Scores, fitness, fitness_error

ACC = Objective("t", "acc")
COUNT = 400


def scores(values: list[float], ids: list[int] | None = None) -> Scores:
    ids = list(range(len(values))) if ids is None else ids
    mean = sum(values) / len(values)
    return Scores({"t": tuple(ids)}, {"t/acc": tuple(values)}, {"t/acc": mean})


def answering(skill: float, seed: int) -> list[float]:
    """Return which documents a model of this skill answers correctly; difficulties differ."""
    hardness = random.Random("hardness")
    luck = random.Random(seed)
    return [
        float(luck.random() < min(1, max(0, skill + hardness.uniform(-0.4, 0.4))))
        for _ in range(COUNT)
    ]


def evaluator_of() -> Evaluator:
    """An evaluator of models that are lists of values."""
    info = TaskInfo("t", "function", COUNT, {"acc": MetricInfo(True, True)})
    body = lambda model, tokenizer, ids: {"acc": [model[i] for i in ids]}  # noqa: E731
    evaluator = Evaluator(None, [ObjectiveFunction(body, info)])
    evaluator.prepare(None, None, {"search": {"t": range(COUNT)}})
    return evaluator


@pytest.fixture(scope="module")
def evaluator() -> Evaluator:
    return evaluator_of()


def raced(
    evaluator: Evaluator, model: Any, incumbent: Scores, earlier: Any = (), **options: Any
) -> Scores:
    objective = options.pop("objective", ACC)
    return score_in_race(
        Race(**options), evaluator, model, "search", incumbent, earlier, [objective]
    )


def test_the_better_is_scored_on_everything_and_the_worse_is_not(evaluator: Evaluator) -> None:
    incumbent = scores(answering(0.6, 0))
    better = raced(evaluator, answering(0.8, 1), incumbent)
    worse = raced(evaluator, answering(0.3, 2), incumbent)
    assert better.fidelity == {"t": COUNT} and not better.expected
    answers = evaluator.answer(answering(0.8, 1))
    assert better == answers.scores(evaluator.default, better.seconds["evaluate"])
    assert 50 <= worse.fidelity["t"] < 150
    truth, found = sum(answering(0.3, 2)) / COUNT, worse.expected["t/acc"]
    assert fitness([ACC], worse) == found.value == pytest.approx(truth, abs=3 * found.error)
    assert fitness_error([ACC], worse) == found.error > 0


def test_better_candidates_are_rarely_stopped_and_standard_errors_are_right(
    evaluator: Evaluator,
) -> None:
    values = answering(0.6, 0)
    incumbent = scores(values)
    earlier = [scores(answering(0.55, seed)) for seed in range(500, 510)]
    stopped_ahead, scaled = 0, []
    for seed in range(150):
        model = answering(0.6 if seed % 2 else 0.52, seed + 10)
        got = raced(evaluator, model, incumbent, earlier, seed=seed)
        if got.expected:
            stopped_ahead += sum(model) > sum(values)
            found = got.expected["t/acc"]
            scaled.append((found.value - sum(model) / COUNT) / found.error)
    assert stopped_ahead <= 3  # 2 % of 150
    # a candidate is stopped when its estimate is low, so the estimates are a little too low
    assert len(scaled) > 10 and -1.0 < sum(scaled) / len(scaled) < 0.1
    assert max(map(abs, scaled)) < 4


def test_a_metric_where_lower_is_better_reverses_the_race(evaluator: Evaluator) -> None:
    incumbent = scores(answering(0.6, 0))
    loss = Objective("t", "acc", higher_is_better=False)
    assert raced(evaluator, answering(0.9, 1), incumbent, objective=loss).fidelity["t"] < COUNT
    assert raced(evaluator, answering(0.3, 1), incumbent, objective=loss).fidelity["t"] == COUNT


def test_a_race_repeats_itself(evaluator: Evaluator) -> None:
    incumbent, model = scores(answering(0.6, 0)), answering(0.4, 3)
    earlier = [scores(answering(0.5, seed)) for seed in range(5)]
    first, second = (raced(evaluator, model, incumbent, earlier, seed=4) for _ in range(2))
    assert first.to_dict() | {"seconds": {}} == second.to_dict() | {"seconds": {}}
    other = raced(evaluator, model, incumbent, earlier, seed=5)
    assert other.documents != first.documents


def test_chance() -> None:
    assert chance(0.0, 0.0) == 0.5 and chance(-1.0, 0.0) == 0.0
    assert chance(1.96, 1.0) == pytest.approx(0.975, abs=1e-3)


@given(st.integers(2, 400), st.integers(1, 5000))
def test_samples_grow_by_equal_parts_of_at_least_the_minimum(minimum: int, total: int) -> None:
    sizes = Race(minimum=minimum).sizes(total)
    assert sizes[-1] == total
    added = [after - before for before, after in itertools.pairwise([0, *sizes])]
    assert min(added) >= min(minimum, total)
    part = total / max(1, total // minimum)
    parts = [round(size / part) for size in sizes]
    assert sizes == [math.ceil(number * total / (total // minimum or 1)) for number in parts]
    assert parts == sorted(set(parts)) and parts[0] == 1
    for before, after in itertools.pairwise(sizes[:-1]):
        assert after - before <= 0.4 * before + part + 1


def test_a_sample_of_the_default_minimum_is_a_quarter_of_200_documents() -> None:
    assert Race().sizes(200) == [50, 100, 150, 200]
    assert Race().sizes(400) == [50, 100, 150, 250, 350, 400]
    assert Race().sizes(230) == [58, 115, 173, 230]


def test_fewer_documents_need_means_over_documents(tasks: Path) -> None:
    info = Harness(["t_letter", "g_sizes"], [tasks]).info
    check_means([Objective("t_letter", "acc")], info)
    for task, metric in (("t_letter", "f1"), ("g_sizes", "acc")):
        with pytest.raises(ConfigError, match=r"evaluation\.racing.*not a mean"):
            check_means([Objective(task, metric)], info)


def test_a_real_model_is_raced(llama: Any, tokenizer: Any, tasks: Path) -> None:
    evaluator = Evaluator(Harness(["t_letter"], [tasks]))
    evaluator.prepare(llama, tokenizer, {"search": {"t_letter": range(40)}})
    objective = Objective("t_letter", "acc")
    incumbent = evaluator.score(llama)
    same = raced(evaluator, llama, incumbent, minimum=10, objective=objective)
    assert same.values["t_letter/acc"] == incumbent.values["t_letter/acc"]
    assert fitness([objective], same) == fitness([objective], incumbent)
