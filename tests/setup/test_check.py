"""`validate` finds mistakes without running a model; each is one sentence that names the key."""

from search_run import SMALL

from evomerge.config.schema import parse, parse_manifest
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare


def prepared(folder, **changes):
    return prepare(parse(SMALL | changes, "search.yaml"), folder)


def test_scales_that_are_too_large_only_in_some_paths_are_accepted(tmp_path):
    space = {"kind": "dataflow", "variant": "structured", "repeats": 4, "scales": [0.5, 3.0]}
    assert prepared(tmp_path, base=None, space=space).space.genes


def test_a_run_keeps_why_candidates_are_scored_on_fewer_documents(tmp_path):
    evaluation = SMALL["evaluation"] | {"search": {"documents": 200}}
    problem = prepared(tmp_path, evaluation=evaluation, budget={"candidates": 400})
    assert problem.fewer_documents.startswith("racing, since 200 documents make")
    frozen = parse_manifest(freeze(problem), "manifest.json")
    assert frozen.evaluation.racing.enabled is True
    assert frozen.frozen.fewer_documents == problem.fewer_documents
    assert prepare(frozen, tmp_path).fewer_documents == problem.fewer_documents


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
    again = parse_manifest(freeze(problem), "manifest.json")
    assert again.frozen.lower_is_better == ["zoo_l2_maths/exact_match", "zoo_l2_maths/tokens"]


def test_all_candidates_have_the_vocabulary_of_all_parents_or_that_of_the_base(tmp_path):
    every = ("zoo:base", "zoo:language", "zoo:maths")
    for tokenizer, vocabulary in (("base", ()), ("union", every)):
        recipes = prepared(tmp_path, tokenizer=tokenizer).space.baselines().values()
        assert {recipe.vocabulary for recipe in recipes} == {vocabulary}
