"""Fresh documents: samples, errors, what the strategy learns, who can be the best."""

import json
import random
from itertools import groupby

import numpy as np
import pytest
import scripted
from scripted import POOL, ScriptedExecutor, course, outcome_of, search
from spaces import parameters

from evomerge.optimize import create
from evomerge.problem.documents import FreshDocuments, restricted, standard_error
from evomerge.run.folder import RunFolder
from evomerge.run.ranking import WeightedSum
from evomerge.scores import Scores
from evomerge.strategy.genome import GenomeStrategy

RANKING = WeightedSum(scripted.OBJECTIVES)

LENGTH = FreshDocuments(POOL, 3).generations_to_mean(8)
"""Generations of `fresh_search` between two means."""


def executor():
    return ScriptedExecutor(3, random.Random(0))


def fresh_search(folder, **options):
    return search(folder, executor(), **{"fresh": 3, "candidates": 110, **options})


def test_a_generation_has_one_sample_and_the_next_one_another():
    fresh = FreshDocuments({"a": range(0, 80, 2), "b": range(30)}, 5, seed=4)
    samples = [fresh.sample(number, 5) for number in range(60)]
    assert samples == [fresh.sample(number, 5) for number in range(60)]
    assert len({str(sample) for sample in samples}) == 60
    for task, pool in fresh.pool.items():
        drawn = [document for sample in samples for document in sample[task]]
        assert set(drawn) == set(pool) and len(drawn) == 300
        assert all(len(set(sample[task])) == 5 for sample in samples)
    assert FreshDocuments({"a": range(3)}, 5).sample(0, 5) == {"a": (0, 1, 2)}


def test_what_is_told_of_a_baseline_are_its_scores_on_these_documents():
    columns = {"a/acc": (1.0, 0.0, 1.0, 1.0), "b/nll": (2.0, 3.0)}
    whole = Scores({"a": (3, 5, 7, 9), "b": (0, 1)}, columns, {"a/acc": 0.75, "b/nll": 2.5})
    part = restricted(whole, {"a": (5, 9), "b": (1,)})
    assert part.documents == {"a": (5, 9), "b": (1,)}
    assert part.values == {"a/acc": (0.0, 1.0), "b/nll": (3.0,)}
    assert part.aggregates == {"a/acc": 0.5, "b/nll": 3.0}


@pytest.mark.parametrize("share", [0.05, 0.3, 0.9, 1.0])
@pytest.mark.parametrize("count", [6, 12, 50])
def test_an_interval_of_two_errors_has_the_score_on_all_documents(share, count):
    """By simulation, in 93 % of 2,000 draws or more; 12 right answers of 12 are not certain."""
    random_numbers, hits = np.random.RandomState(count), 0
    for _ in range(2000):
        pool = (random_numbers.rand(200) < share).astype(float)
        drawn = random_numbers.permutation(pool)[:count]
        # The interval of Agresti and Coull lies around the mean with two more of each kind.
        middle = (drawn.sum() + 2) / (count + 4)
        hits += abs(middle - pool.mean()) <= 2 * standard_error(tuple(drawn), 200) + 4 / (count + 4)
    assert hits >= 1860
    assert standard_error((1.0,) * 12, 200) > 0.05
    assert standard_error((1.0, 0.0) * 100, 200) == 0


def test_each_generation_is_scored_on_its_own_documents_and_the_mean_on_all(tmp_path):
    history = fresh_search(tmp_path / "run")
    samples = FreshDocuments(POOL, 3)
    proposed = [item for item in history.candidates if item.label is None]
    for number, group in groupby(
        (item for item in proposed if not item.is_believed), key=lambda item: item.generation
    ):
        documents = {tuple(item.first_outcome.documents["task"]) for item in group}
        assert documents == {samples.sample(number, 3)["task"]}
    believed = [item for item in proposed if item.is_believed]
    assert len(believed) == len(proposed) // (LENGTH * 8) > 2
    for item in (*believed, *history.baselines):
        assert item.first_outcome.documents == POOL and not item.is_estimate
    assert all(item.is_estimate for item in proposed if not item.is_believed)
    assert all(item.generation is None for item in believed)


def test_the_best_so_far_and_the_winner_have_all_documents(tmp_path):
    history = fresh_search(tmp_path / "run")
    (best,) = RANKING.incumbents(history.candidates)
    assert best.is_believed or best.label is not None
    finalists = RANKING.finalists(history.candidates, 5)
    assert len(finalists) == 5 and all(item.is_believed for item in finalists[:3])
    last = max(item.generation or 0 for item in history.candidates)
    drawn = [item for item in finalists if item.is_estimate]
    assert [item.generation for item in drawn] == [last, last - 1]
    for item in drawn:
        others = [x for x in history.candidates if x.generation == item.generation]
        assert item.fitness == max(x.fitness for x in others if x.is_estimate)
    assert "validation" in history.winner.outcomes


def test_the_mean_changes_no_proposal(tmp_path, monkeypatch):
    """What is scored beside the search is of no generation, and the strategy is not told of it."""
    often = fresh_search(tmp_path / "often", candidates=3 + 8 * (2 * LENGTH + 2) + 2)
    monkeypatch.setattr(FreshDocuments, "generations_to_mean", lambda *_: 10**9)
    never = fresh_search(tmp_path / "never", candidates=3 + 8 * (2 * LENGTH + 2))

    def genomes(history):
        return [tuple(item.genome) for item in history.candidates if not item.is_believed]

    assert genomes(often) == genomes(never)
    assert sum(item.is_believed for item in often.candidates) == 2


def test_the_mean_of_large_generations_comes_after_fewer_of_them():
    """Of 64 candidates with 12 of 200 documents, so many that they have 2,000 documents."""
    fresh = FreshDocuments({"a": range(200)}, 12)
    assert [fresh.generations_to_mean(size) for size in (4, 10, 14, 64, 500)] == [10, 10, 10, 3, 1]
    two = FreshDocuments({"a": range(200), "b": range(10)}, 12)
    assert two.generations_to_mean(64) == 2


def test_patience_counts_what_was_compared_with_the_best(tmp_path):
    """Candidates with fresh documents are of no use to it until the next mean is scored."""
    history = fresh_search(tmp_path / "run", patience=20)
    (best,) = RANKING.incumbents(history.candidates)
    believed = [item.number for item in history.candidates if item.is_believed]
    known = [number for number in believed if number - best.number >= 20]
    assert known and len(history.candidates) == known[0] + 1 + 8, "the mean's generation is whole"


def test_a_raised_budget_asks_for_the_generation_of_a_mean_that_reaches_the_target(tmp_path):
    """With the larger budget from the start, the mean's score would not have been known."""
    whole = fresh_search(tmp_path / "whole")
    mean = next(item for item in whole.candidates if item.is_believed)
    bound = {"target": mean.fitness}
    assert all(item.fitness < mean.fitness for item in whole.baselines)
    for first in (mean.number + 1, mean.number + 3):
        cut = fresh_search(tmp_path / f"{first}", candidates=first, **bound)
        assert len(cut.candidates) == first
        raised = fresh_search(tmp_path / f"{first}", **bound)
        once = fresh_search(tmp_path / f"once-{first}", **bound)
        assert len(raised.candidates) == len(once.candidates) == mean.number + 1 + 8
        assert course(raised) == course(once)


RECIPES = parameters(
    ["task_arithmetic", "ties"],
    layers=2,
    groups=2,
    embeddings=False,
    method_per="group",
    knobs={"weight": 0.5, "density": 0.5, "lambda": 1.0},
)
"""A space of four recipes."""


def few_recipes(folder):
    make = lambda: GenomeStrategy(  # noqa: E731
        RECIPES,
        create("cma-margin", RECIPES.genes, 1, is_fresh=True),
        RANKING,
        is_fresh=True,
    )
    runner = ScriptedExecutor(1, random.Random(0))
    return search(folder, runner, fresh=3, candidates=24, searched=RECIPES, make=make)


def test_killed_between_equal_candidates_the_journal_is_the_same(tmp_path, monkeypatch):
    """Also where the mean has the recipe of an earlier one, or of a baseline."""
    monkeypatch.setattr(FreshDocuments, "generations_to_mean", lambda *_: 1)
    few_recipes(tmp_path / "whole")
    whole = RunFolder(tmp_path / "whole").journal_path.read_bytes()
    equal = {event.get("same_as") for event in map(json.loads, whole.splitlines())}
    believed = [
        event
        for event in map(json.loads, whole.splitlines())
        if "believed" in event.get("origin", ())
    ]
    assert len(equal) > 2 and len(believed) > 1
    lines = whole.splitlines(keepends=True)
    for kept in range(1, len(lines)):
        run = RunFolder.create(tmp_path / f"{kept}", "{}", {"made": "up"})
        run.journal_path.write_bytes(b"".join(lines[:kept]))
        few_recipes(run.path)
        assert run.journal_path.read_bytes() == whole, kept


def test_a_recipe_that_comes_again_is_scored_on_the_documents_of_its_generation(tmp_path):
    """A lucky outcome is not told twice, and within a generation a recipe is scored once."""
    told = []

    def make():
        made = create("cma-margin", RECIPES.genes, 1, is_fresh=True)
        plain = made.tell
        made.tell = lambda genome, values, broken=0.0: (
            told.append((genome, values)), plain(genome, values, broken)
        )  # fmt: skip
        return GenomeStrategy(RECIPES, made, RANKING, is_fresh=True)

    runner = ScriptedExecutor(1, random.Random(0), score=lambda job: outcome_of(job))
    history = search(tmp_path / "run", runner, fresh=3, candidates=60, searched=RECIPES, make=make)
    proposed = [item for item in history.candidates if item.fresh is not None]
    pairs = {(item.digest, item.generation) for item in proposed}
    digests = {item.digest for item in proposed}
    assert len(digests) < len(pairs) < len(proposed)
    scored = [number for number, split in runner.scored if split == "search"]
    assert len(scored) == len({*scored}) == len(pairs) + len(history.candidates) - len(proposed)
    by_pair = {}
    for item in proposed:
        by_pair.setdefault((item.digest, item.generation), set()).add(item.fitness)
    assert all(len(values) == 1 for values in by_pair.values())
    assert any(
        len({next(iter(by_pair[pair])) for pair in pairs if pair[0] == digest}) > 1
        for digest in digests
    )
    complete = [item for item in proposed if item.generation < proposed[-1].generation]
    assert [values for _, values in told if values][-len(complete) :] == [
        (item.fitness,) for item in complete
    ]
