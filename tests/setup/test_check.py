"""`validate` finds mistakes without running a model; each is one sentence that names the key."""

import pytest
from search_run import SMALL
from tiny import make

from evomerge.config.schema import parse, parse_manifest
from evomerge.errors import InputError
from evomerge.setup.descents import slope_note
from evomerge.setup.freeze import freeze
from evomerge.setup.runs import prepare


def prepared(folder, **changes):
    return prepare(parse(SMALL | changes, "search.yaml"), folder)


def refused(folder, sentence, **changes):
    with pytest.raises(InputError, match=sentence) as caught:
        prepared(folder, **changes)
    assert "\n" not in str(caught.value)


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


@pytest.mark.parametrize(
    ("sentence", "changes"),
    [
        (
            "no gene of this space is a number with a slope",
            {"space": {"method": "dare_ties", "knobs": {"weight": 1.0}}},
        ),
        (
            "no gene of this space is a number with a slope",
            {"base": None, "space": {"kind": "dataflow", "variant": "sakana", "scales": 1.0}},
        ),
        ("has `sigma`, which has no effect where `name`", {"optimizer": {"sigma": 0.3}}),
        ("has `start`, which has no effect where `name`", {"optimizer": {"start": ["run:a"]}}),
        ("has `options`, which has no effect", {"optimizer": {"options": {"archive": 20}}}),
        (
            "`optimizer.form` names 'zoo_l2', which is no task .*; allowed are zoo_l2_maths.",
            {"optimizer": {"form": {"zoo_l2": {"end": "stop"}}}},
        ),
        (
            "`optimizer.form.zoo_l2_maths.end` is 'eos'; it must be 'token', 'stop' or 'none'",
            {"optimizer": {"form": {"zoo_l2_maths": {"end": "eos"}}}},
        ),
    ],
)
def test_what_a_descent_does_not_use_is_refused(sentence, changes, tmp_path):
    optimizer = {"name": "gradient", **changes.get("optimizer", {})}
    refused(tmp_path, sentence, **changes | {"optimizer": optimizer})


def test_parents_of_different_depth_are_refused_in_a_parameter_space(tmp_path):
    """The shapes of their tensors fit, but only one of the parents has a block 2."""
    make(tmp_path / "deep")
    make(tmp_path / "shallow", num_hidden_layers=2)
    refused(
        tmp_path,
        r"shallow' has 2 layers, but the host .*deep' has 3; .* set the kind to 'dataflow'",
        parents=["./deep", "./shallow"],
        base=None,
        space={"kind": "parameters", "method": "linear"},
    )


def test_scales_that_cannot_be_folded_into_weights_are_refused(tmp_path):
    space = {"kind": "dataflow", "repeats": 1, "scales": 20.0}
    refused(tmp_path, r"`space.scales` must be nearer to 1.*multiply to", base=None, space=space)


def test_scales_that_are_too_large_only_in_some_paths_are_accepted(tmp_path):
    """The longest path multiplies too many scales of 3; the path at the start has no scales."""
    space = {"kind": "dataflow", "variant": "structured", "repeats": 4, "scales": [0.5, 3.0]}
    assert prepared(tmp_path, base=None, space=space).space.genes


@pytest.mark.parametrize(
    ("method", "parents", "sentence"),
    [
        ("slerp", ["zoo:language", "zoo:maths", "zoo:base"], "takes exactly 2 parents, .* names 3"),
        ("nosuch", ["zoo:language"], "`space.method`"),
    ],
)
def test_a_method_that_cannot_take_the_parents_is_refused(tmp_path, method, parents, sentence):
    refused(tmp_path, sentence, parents=parents, base=None, space={"method": method})


@pytest.mark.parametrize(
    ("space", "sentence"),
    [
        (
            {"kind": "dataflow", "variant": "swaps", "layers": [2, 4]},
            r"`space` has `layers` \[2, 4\]",
        ),
        ({"kind": "dataflow", "groups": 3}, "`space` has `groups` 3, which has no meaning"),
        (
            {"kind": "parameters", "outside": {"head": "zoo:maths"}},
            r"`space` has `outside` \{'head': 'zoo:maths'\}, .* remove it",
        ),
        ({"kind": "dataflow", "host": "zoo:mathx"}, "`space.host` is 'zoo:mathx'.* Did you mean"),
    ],
)
def test_keys_of_other_spaces_are_refused_with_their_value(tmp_path, space, sentence):
    refused(tmp_path, sentence, space=space)


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


TIES = {"task": "zoo_l2_maths", "metric": "exact_match", "tie_breaker": "nll"}

FRONT = {
    "mode": "pareto",
    "objectives": [{"task": "zoo_l2_maths", "metric": "exact_match"}, {"metric": "layers"}],
}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"objectives": [{"task": "zoo_facts", "metric": "tokens"}]},
            "task 'zoo_facts' has no metric 'tokens'; it has acc",
        ),
        (
            {
                "objectives": [TIES],
                "evaluation": {**SMALL["evaluation"], "racing": {"enabled": True, "minimum": 8}},
            },
            r"the fitness only, but `objectives\[0\].tie_breaker` is nll; remove it",
        ),
        (
            {"constraints": [{"task": "zoo_facts", "metric": "f1", "at_least": 0.5}]},
            "constraints: task 'zoo_facts' has no metric 'f1'; it has acc",
        ),
        (FRONT, "optimizer.name is 'cma', which has one objective, .* choose one of nsga2"),
        (
            FRONT | {"optimizer": {"name": "nsga3", "options": {"directions": 3}}},
            "options of 'nsga3': unknown key `directions`; allowed are none, so remove it",
        ),
        ({"optimizer": {"name": "nsga2"}}, "'nsga2', which needs several objectives"),
        (
            {
                "constraints": [{"metric": "layers", "at_most": 4}],
                "evaluation": {**SMALL["evaluation"], "racing": {"enabled": True, "minimum": 8}},
            },
            "`evaluation.racing` compares candidates by one fitness, but there are constraints",
        ),
    ],
)
def test_objectives_constraints_and_optimizer_must_fit(tmp_path, changes, sentence):
    refused(tmp_path, sentence, **changes)


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
