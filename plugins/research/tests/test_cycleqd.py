"""The law of strategies for CycleQD, and how its children are made."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from draws import draws
from evomerge_research.archive import Grid
from evomerge_research.cycleqd import CycleQDSetting, CycleQDStrategy, TaskVectorSpace
from hypothesis import given, settings
from hypothesis import strategies as st

from evomerge.recipe import Recipe
from evomerge.run.history import Candidate
from evomerge.scores import Failure, Objective, Outcome, Scores
from evomerge.strategy.members import recipe_in

SPACE = TaskVectorSpace(
    base="base", parents=["a", "b", "c"], host="base", stacks={"model.layers": 2}
)
LABELS = list(SPACE.baselines())
OBJECTIVES = [Objective("one", "acc"), Objective("two", "acc"), Objective("three", "acc")]
FEW = settings(max_examples=draws(25), deadline=None)
VALUE = st.sampled_from([0.0, 0.5, 0.51, 1.0, math.nan, math.inf, -math.inf, 1e300])
TOLD = st.one_of(st.just("failed"), st.just("lost"), st.tuples(VALUE, VALUE, VALUE))
PARENTS = [(0.9, 0.1, 0.0), (0.1, 0.8, 0.0), (0.0, 0.2, 0.7), (0.1, 0.1, 0.1)]


def new(**setting: Any) -> CycleQDStrategy:
    grid = Grid.of(OBJECTIVES, 5, {})
    return CycleQDStrategy(SPACE, OBJECTIVES, [], grid, CycleQDSetting(**setting), seed=5)


def outcome(values: Any) -> Outcome:
    if values == "failed":
        return Failure("merge", "not finite")
    keys = [item.key for item in OBJECTIVES]
    return Scores({}, {}, dict(zip(keys, values, strict=True)))


def begun(strategy: CycleQDStrategy, told: bool = True) -> CycleQDStrategy:
    for number, label in enumerate(LABELS):
        assert strategy.add_baseline(number, label) == {}
        if told:
            strategy.tell(number, outcome(PARENTS[number]))
    return strategy


@pytest.mark.parametrize("generation", [1, 4, 32])
@given(told=st.lists(TOLD, max_size=40), aggregate=st.sampled_from([0, 3]), early=st.booleans())
@FEW
def test_what_was_asked_is_proposed_again_from_its_origins(generation, told, aggregate, early):
    setting = {"generation": generation, "aggregate": aggregate}
    one, same, other = (new(**setting) for _ in range(3))
    begun(one, early)
    begun(same, early)
    candidates = []
    for number, label in enumerate(LABELS):
        other.repeat(number, label, {})
        candidates.append(Candidate(number, label, SPACE.baselines()[label].digest))
        if early:
            other.tell(number, outcome(PARENTS[number]))
    for number, values in enumerate(told, start=len(LABELS)):
        proposal = one.ask(number)
        assert same.ask(number) == proposal
        mates = proposal.origin["mates"]
        assert set(mates) <= set(range(number)) and len(set(mates)) == len(mates) >= 2
        assert json.loads(json.dumps(proposal.origin)) == proposal.origin
        assert Recipe.from_dict(proposal.recipe.to_dict()) == proposal.recipe
        other.repeat(number, None, proposal.origin)
        candidates.append(Candidate(number, None, proposal.recipe.digest, proposal.origin))
        assert recipe_in(SPACE, candidates, number) == proposal.recipe
        for strategy in (one, same, other) if values != "lost" else ():
            strategy.tell(number, outcome(values))
            strategy.tell(number, outcome(values))
        assert one.left == other.left
    assert one.ask(99) == other.ask(99)


SCRIPT = """
from test_cycleqd import begun, new, outcome
import numpy as np
np.random.seed({seed})
strategy = begun(new(aggregate=5))
digests = []
for number in range(4, 30):
    digests.append(strategy.ask(number).recipe.digest)
    strategy.tell(number, outcome([number * k % 7 / 7 for k in (1, 2, 3)]))
print(digests)
"""


def test_another_process_with_another_hash_seed_proposes_the_same():
    said = {
        subprocess.run(
            [sys.executable, "-c", SCRIPT.format(seed=seed)],
            env={
                **os.environ,
                "PYTHONHASHSEED": str(seed),
                "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in (1, 2)
    }
    assert len(said) == 1


def test_objectives_take_turns_generation_by_generation():
    strategy = begun(new(generation=2))
    archives = [strategy.ask(number).origin["archive"] for number in range(4, 12)]
    one, two, three = (item.key for item in OBJECTIVES)
    assert archives == [one, one, two, two, three, three, one, one]


def test_a_child_is_a_mean_of_task_vectors_and_the_best_parent_mutates_it():
    strategy = begun(new(sigma=0.01, mutation=0.2))
    experts = []
    for number in range(4, 7):
        proposal = strategy.ask(number)
        *mates, expert = proposal.recipe.embeddings.sources
        assert [source.knobs for source in mates] == [
            {"weight": weight} for weight in proposal.origin["weights"]
        ]
        assert all(abs(weight - 1) < 0.05 for weight in proposal.origin["weights"])
        assert expert.knobs == {"weight": 0.0, "mutation": 0.2}
        assert proposal.recipe.embeddings.base.parent == "base"
        assert proposal.recipe.seed == proposal.origin["seed"]
        experts.append(expert.parent)
    assert experts == ["a", "b", "c"]


def test_without_a_mutation_there_is_no_expert():
    proposal = begun(new(mutation=0.0)).ask(4)
    assert set(proposal.origin) == {"archive", "mates", "weights"}
    assert len(proposal.recipe.head.sources) == 2


def test_the_aggregate_merges_the_best_elites_by_the_softmax_of_their_scores():
    strategy = begun(new(aggregate=2))
    assert "expert" in strategy.ask(4).origin
    origin = strategy.ask(5).origin
    whole = math.exp(0.9) + math.exp(0.8) + math.exp(0.7)
    assert origin["archive"] == "all" and origin["mates"] == [0, 1, 2]
    assert origin["weights"] == pytest.approx([math.exp(x) / whole for x in (0.9, 0.8, 0.7)])


def test_averages_that_are_tried_for_the_greedy_soup_are_ignored():
    strategy = begun(new())
    strategy.repeat(4, None, {"soup": ["a", "b"]})
    strategy.tell(4, outcome((1.0, 1.0, 1.0)))
    assert all(4 not in {e.number for e in item.elites.values()} for item in strategy.archives)
    assert strategy.ask(5).origin["archive"] == "one/acc"


def test_an_origin_that_is_no_child_is_refused():
    good = {"mates": [0, 1], "weights": [1.0, 1.0]}
    for wrong in (
        {"mates": [0, 9]},
        {"weights": [1.0]},
        {"expert": "z", "mutation": 0.1, "seed": 1},
        {"expert": "a"},
    ):
        with pytest.raises(ValueError):
            begun(new()).repeat(4, None, good | wrong)
    begun(new()).repeat(4, None, good)
