"""`validate` finds mistakes without running a model; each is one sentence that names the key."""

import pytest
from search_run import SMALL

from evomerge.config.schema import parse, parse_manifest
from evomerge.setup.descents import slope_note
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare


def prepared(folder, **changes):
    return prepare(parse(SMALL | changes, "search.yaml"), folder)


@pytest.mark.parametrize(
    ("space", "note"),
    [
        ({"method": "task_arithmetic", "groups": "each", "components": "each"}, None),
        ({"method": "dare_ties", "knobs": {"weight": 1.0, "lambda": (0.5, 1.5)}}, None),
        ({"method": "multislerp"}, "4 more merges by multislerp in every step"),
        (
            {"method": "ramplus", "knobs": {"r": (0.0, 1.0), "alpha": 0.2}},
            "2 more merges by ramplus in every step",
        ),
        ({"method": ["linear", "multislerp"]}, "4 more merges by multislerp in every step"),
        ({"method": "tsv", "knobs": {"lambda": (0.5, 1.5)}}, "2 more merges by tsv in every step"),
    ],
)
def test_validate_says_what_slopes_without_a_formula_cost(space, note):
    data = {
        "parents": ["zoo:language", "zoo:maths"],
        "base": "zoo:base",
        "space": space,
        "objectives": [{"task": "zoo_l2", "metric": "exact_match"}],
    }
    descent = {"optimizer": {"name": "gradient"}}
    assert slope_note(parse({**data, **descent}, "search.yaml"), []) == note
    assert slope_note(parse(data, "search.yaml"), []) is None


@pytest.mark.parametrize(
    ("space", "kept"),
    [
        ({"method": "dare_linear"}, "8 of 16 genes have none, so no descent moves them"),
        ({"method": ["task_arithmetic", "linear"]}, "1 of 9 genes have none"),
        ({"method": "task_arithmetic", "most_parents": 2}, "2 of 10 genes have none"),
    ],
)
def test_validate_says_how_many_genes_no_descent_moves(space, kept, tmp_path):
    checked = prepared(tmp_path, space={"groups": 2, **space}, optimizer={"name": "gradient"})
    assert slope_note(checked.config, checked.space.genes).startswith(kept)


def test_scales_that_are_too_large_only_in_some_paths_are_accepted(tmp_path):
    """The longest path multiplies too many scales of 3; the path at the start has no scales."""
    space = {"kind": "dataflow", "variant": "structured", "repeats": 4, "scales": [0.5, 3.0]}
    assert prepared(tmp_path, base=None, space=space).space.genes


def test_a_method_can_be_chosen_for_each_group(tmp_path):
    space = {"method": ["ties", "linear"], "method_per": "group", "groups": 2}
    genes = prepared(tmp_path, space=space).space.genes
    assert sum(gene.kind == "choice" for gene in genes) > 1


@pytest.mark.parametrize(("documents", "policy"), [(200, "racing"), (40, "off")])
def test_a_run_keeps_why_candidates_are_scored_on_fewer_documents(tmp_path, documents, policy):
    evaluation = SMALL["evaluation"] | {"search": {"documents": documents}}
    problem = prepared(tmp_path, evaluation=evaluation)
    assert problem.fewer_documents.startswith(f"{policy}, since {documents} documents make")
    frozen = parse_manifest(freeze(problem), "manifest.json")
    assert frozen.evaluation.racing.enabled is (policy == "racing")
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
