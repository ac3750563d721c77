"""`validate` finds mistakes without running a model; each is one sentence that names the key."""

import pytest
from lm_tasks import write_task
from search_run import SMALL

from evomerge.config.schema import parse
from evomerge.errors import ConfigError
from evomerge.problem.documents import fresh_documents
from evomerge.problem.problem import record_of
from evomerge.problem.runs import prepare


def prepared(folder, **changes):
    return prepare(parse(SMALL | changes, "search.yaml"), folder)


def test_scales_that_are_too_large_only_in_some_paths_are_accepted(tmp_path):
    space = {"kind": "dataflow", "variant": "structured", "repeats": 4, "scales": [0.5, 3.0]}
    assert prepared(tmp_path, base=None, space=space).space.genes


@pytest.mark.parametrize(
    ("search", "changes", "documents", "fresh", "why"),
    [
        ({"documents": "auto"}, {}, 200, 12, "12 of 200 documents a candidate, others for each"),
        (
            {"documents": "auto"},
            {"budget": {"hours": 1}},
            200,
            25,
            "25 of 200 documents a candidate, others for each",
        ),
        ({"documents": "auto"}, {"optimizer": {"name": "gp"}}, 200, None, "the optimizer gp comp"),
        (
            {"documents": "auto"},
            {"constraints": [{"metric": "layers", "at_most": 4}]},
            50,
            None,
            "50 documents, the same for all: there are `constraints`",
        ),
        (
            {"documents": "auto"},
            {"executor": {"order": "arrival"}},
            50,
            None,
            "`executor.order` is arrival",
        ),
        ({"documents": 30}, {}, 30, None, "30 documents, the same for all: the search file says"),
        ({"documents": 30, "fresh": 7}, {}, 30, 7, "7 of 30 documents a candidate"),
        ({}, {}, 200, None, "200 documents, the same for all: the search file says it"),
        ({"documents": "auto", "fresh": 100}, {}, 200, 100, "100 of 200 documents a candidate"),
        (
            {"documents": "auto"},
            {"objectives": [*SMALL["objectives"], {"metric": "layers", "goal": "minimize"}]},
            50,
            None,
            "model/layers is not a mean over documents",
        ),
    ],
)
def test_a_run_keeps_which_documents_a_candidate_has_and_why(
    tmp_path, search, changes, documents, fresh, why
):
    evaluation = SMALL["evaluation"] | {"search": search}
    changes = {"budget": {"candidates": 400}} | changes
    problem = prepared(tmp_path, evaluation=evaluation, **changes)
    assert problem.config.evaluation.search.documents == documents
    assert problem.config.evaluation.search.fresh == fresh
    assert why in problem.fewer_documents
    again = prepare(record_of(problem), tmp_path)
    assert again.fewer_documents == problem.fewer_documents
    assert again.config.evaluation.search == problem.config.evaluation.search
    assert (fresh_documents(again) is None) == (fresh is None)
    assert fresh_documents(again) == fresh_documents(problem)


def test_where_few_documents_are_left_each_candidate_has_all(tmp_path):
    rows = [{"q": f"{number}+1=", "a": str(number + 1)} for number in range(60)]
    task = write_task(tmp_path, "small", rows)
    problem = prepared(
        tmp_path,
        objectives=[{"task": task, "metric": "exact_match"}],
        evaluation={
            "include": [str(tmp_path)],
            "search": {"documents": "auto"},
            "validation": {"documents": 20},
            "test": {"documents": 20},
        },
    )
    assert problem.fewer_documents == (
        "20 documents, the same for all: a generation would have half of them or more"
    )


def test_validation_and_test_documents_are_the_usual_ones_with_auto(tmp_path):
    """So results of searches with fewer documents compare, and theirs are among the usual ones."""
    sizes = {split: {"documents": 40} for split in ("validation", "test")}
    usual = prepared(tmp_path, evaluation={"include": ["zoo:tasks"], **sizes})
    few = {"include": ["zoo:tasks"], **sizes, "search": {"documents": "auto"}}
    auto = prepared(tmp_path, evaluation=few, executor={"order": "arrival"})
    assert auto.splits["validation"] == usual.splits["validation"]
    assert auto.splits["test"] == usual.splits["test"]
    (own,), (every,) = (found.splits["search"].values() for found in (auto, usual))
    assert len(own) == 50 and len(every) == 200 and {*own} < {*every}


def test_racing_is_refused_where_a_file_asks_for_it_and_a_raced_run_opens(tmp_path):
    for enabled in (False, "auto"):
        evaluation = SMALL["evaluation"] | {"racing": {"enabled": enabled}}
        assert prepared(tmp_path, evaluation=evaluation).splits["search"]
    with pytest.raises(ConfigError, match=r"racing\.enabled` is true, but racing is gone.*false"):
        prepared(tmp_path, evaluation=SMALL["evaluation"] | {"racing": {"enabled": True}})


def test_a_goal_turns_the_direction_of_a_metric_and_fronts_have_nsga2(tmp_path):
    problem = prepared(
        tmp_path,
        mode="pareto",
        optimizer={"population": 10},
        objectives=[
            {"task": "zoo_l2_maths", "metric": "exact_match", "goal": "minimize"},
            {"task": "zoo_l2_maths", "metric": "tokens"},
            {"metric": "parameters", "goal": "maximize"},
        ],
    )
    assert [item.higher_is_better for item in problem.objectives] == [False, False, True]
    assert problem.config.optimizer.name == "nsga2"
    assert problem.config.executor.order == "generation"
    assert record_of(problem).lower_is_better == ["zoo_l2_maths/exact_match", "zoo_l2_maths/tokens"]


def test_all_candidates_have_the_vocabulary_of_all_parents_or_that_of_the_base(tmp_path):
    every = ("zoo:base", "zoo:language", "zoo:maths")
    for tokenizer, vocabulary in (("base", ()), ("union", every)):
        recipes = prepared(tmp_path, tokenizer=tokenizer).space.baselines().values()
        assert {recipe.vocabulary for recipe in recipes} == {vocabulary}
