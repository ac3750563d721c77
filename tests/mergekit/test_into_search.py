"""What a search file takes over from a mergekit file or a config of mergekit-evolve."""

import pytest
import yaml

from evomerge.errors import InputError
from evomerge.mergekit.into_search import search_parts

PAIR = [{"model": "a"}, {"model": "b"}]


def parts(**keys):
    return search_parts(yaml.safe_dump(keys), "file.yml")


def sources(first, stop, *models, **parameters):
    every = [{"model": model, "layer_range": [first, stop]} for model in models]
    return {"sources": every, **({"parameters": parameters} if parameters else {})}


def weighted(**weights):
    return [{"model": name, "parameters": {"weight": value}} for name, value in weights.items()]


def test_numbers_become_ranges_around_them_within_what_the_method_allows():
    models = [
        {"model": "a", "parameters": {"weight": 0.6, "density": 0.3}},
        {"model": "b", "parameters": {"weight": -0.5, "density": 0.9}},
        {"model": "base"},
    ]
    taken = parts(
        merge_method="ties", base_model="base", models=models, dtype="float16",
        parameters={"normalize": False, "lambda": 1.2}, tokenizer_source="a",
    )  # fmt: skip
    assert (taken.parents, taken.base) == (["a", "b"], "base")
    assert taken.keys == {"dtype": "float16", "tokenizer": "a"}
    assert taken.space == {
        "method": "ties",
        "groups": "one",
        "embeddings": False,
        "knobs": {"weight": [-1.0, 1.2], "density": [0.1, 1.0], "lambda": 1.2, "normalize": 0},
    }
    assert taken.notes == []


def test_a_number_of_zero_has_a_range_to_both_sides():
    taken = parts(merge_method="task_arithmetic", base_model="o", models=weighted(a=0.0, b=0.1))
    assert taken.space["knobs"] == {"weight": [-0.25, 0.25]}


@pytest.mark.parametrize(
    ("keys", "space"),
    [
        (  # numbers over depth
            {"models": weighted(a=[0.1, 0.2, 0.3], b=1)},
            {"groups": 3, "smooth": True},
        ),
        (  # slices of one stack
            {"slices": [sources(0, 4, "a", "b", weight=1), sources(4, 8, "a", "b", weight=2)]},
            {"groups": 2},
        ),
        (  # both
            {"slices": [sources(0, 4, "a", "b", weight=[0, 1]), sources(4, 8, "a", "b", weight=1)]},
            {"groups": 4, "smooth": True},
        ),
        (  # filters of components
            {"models": weighted(a=[{"filter": "self_attn", "value": 1}, {"value": 2}], b=1)},
            {"groups": "one", "components": ["attention"]},
        ),
        (  # filters of tensors
            {"models": weighted(a=[{"filter": "q_proj", "value": 1}, {"value": 2}], b=1)},
            {"groups": "one", "components": "each", "embeddings": True},
        ),
        (  # filters outside of the blocks
            {"models": weighted(a=[{"filter": "lm_head", "value": 1}, {"value": 2}], b=1)},
            {"groups": "one", "embeddings": True},
        ),
    ],
)
def test_depth_and_filters_become_groups_and_components(keys, space):
    taken = parts(merge_method="linear", **keys)
    del taken.space["method"], taken.space["knobs"]
    assert taken.space == {"embeddings": False} | space


def test_slices_at_other_depths_become_a_path():
    slices = [sources(0, 6, "a"), sources(2, 8, "b"), sources(4, 8, "a")]
    taken = parts(merge_method="passthrough", slices=slices)
    assert taken.parents == ["a", "b"] and taken.notes == []
    assert taken.space == {
        "kind": "dataflow", "variant": "frankenmerge", "slices": [2, 3], "layers": [1, 16],
        "scales": 1,
    }  # fmt: skip
    moved = parts(
        merge_method="linear", slices=[sources(0, 6, "a", "b", weight=1), sources(2, 8, "a")]
    )
    assert moved.space["variant"] == "frankenmerge"
    assert moved.notes[-1].startswith("`merge_method` linear and its parameters are not carried")


def test_the_base_of_slerp_is_the_first_parent():
    slerp = {"merge_method": "slerp", "parameters": {"t": 0.3}}
    assert parts(**slerp, base_model="b", models=PAIR).parents == ["b", "a"]
    assert parts(**slerp, base_model="c", models=PAIR[:1]).parents == ["c", "a"]
    other = parts(**slerp, base_model="c", models=PAIR)
    assert (other.parents, other.base) == (["a", "b"], None)
    assert "`base_model` 'c' is not carried over" in other.notes[-1]


def test_one_parent_and_a_base_are_searched_from_the_base_on():
    taken = parts(merge_method="task_arithmetic", base_model="o", models=weighted(a=0.8))
    assert (taken.parents, taken.space["most_parents"]) == (["a"], 1)


@pytest.mark.parametrize(
    ("keys", "note"),
    [
        ({"merge_method": "model_stock", "base_model": "c"}, "no number that could be searched"),
        ({"merge_method": "slerp", "parameters": {"t": 1}, "models": [*PAIR, {"model": "c"}]},
         "merges 2 models at a time, and the slices have 3"),
        ({"chat_template": "auto"}, "`chat_template` is not carried over"),
        ({"dtype": "float32", "out_dtype": "float16"}, "`dtype` float32 is not carried over"),
        ({"tokenizer_source": "c"}, "`tokenizer_source` 'c' is not carried over"),
        ({"tokenizer": {"pad_to_multiple_of": 8}}, "`tokenizer.tokens` and"),
        ({"name": "mine"}, "Key 'name' is ignored, as in mergekit"),
    ],
)  # fmt: skip
def test_what_is_not_carried_over_is_named(keys, note):
    taken = parts(**{"merge_method": "linear", "models": PAIR, "parameters": {"weight": 1}} | keys)
    assert note in taken.notes[-1]


GENOME = {"models": ["a", "b"], "merge_method": "dare_ties", "base_model": "o"}


def test_a_config_of_mergekit_evolve_becomes_space_tasks_and_documents():
    genome = {
        **GENOME, "layer_granularity": 4, "filters": ["self_attn", "mlp"], "smooth": True,
        "allow_negative_weights": True, "normalize": False, "tokenizer_source": "union",
    }  # fmt: skip
    tasks = [{"name": "t", "metric": "exact_match,none", "weight": 2}, "u"]
    taken = parts(genome=genome, tasks=tasks, limit=30, num_fewshot=2)
    assert (taken.parents, taken.base, taken.blocks_per_group) == (["a", "b"], "o", 4)
    assert taken.keys == {"dtype": "bfloat16", "tokenizer": "union"}
    assert taken.space == {
        "method": "dare_ties", "groups": "one", "smooth": True,
        "components": ["attention", "mlp"], "embeddings": False,
        "knobs": {"weight": [-1.0, 1.0], "normalize": 0},
    }  # fmt: skip
    assert taken.tasks == [
        {"task": "t", "metric": "exact_match", "weight": 2.0},
        {"task": "u", "metric": "acc"},
    ]
    assert taken.limit == 30 and taken.evaluation == {"fewshot": 2, "chat_template": True}
    assert taken.notes == []


@pytest.mark.parametrize(
    ("keys", "genome", "note"),
    [
        ({"random_init": True}, {}, "`random_init` is not"),
        ({"fewshot_as_multiturn": False}, {}, "`fewshot_as_multiturn: false` is not"),
        ({"tasks": [{"name": "t", "weight": -1}]}, {}, "`weight` -1 of the task t is not"),
        ({"seed": 3}, {}, "'seed' in `file.yml` is not"),
        ({}, {"smooth": True}, "`genome.smooth` is not"),
        ({}, {"tokenizer_source": "x"}, "`genome.tokenizer_source` 'x' is not"),
        ({}, {"merge_method": "linear"}, "`genome.base_model` 'o' is not"),
    ],
)
def test_what_is_not_carried_over_from_mergekit_evolve_is_named(keys, genome, note):
    (said,) = parts(**{"genome": GENOME | genome, "tasks": ["t"]} | keys).notes
    assert said.startswith(note)


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"parents": ["a"]}, "file.yml has neither `merge_method` nor `genome`"),
        ({"merge_method": "linear", "models": []}, "file.yml: The mergekit file: `models`"),
        ({"genome": {**GENOME, "merge_method": "x"}, "tasks": []}, "`genome.merge_method`"),
        ({"genome": GENOME}, "`tasks` is missing"),
        ({"genome": {**GENOME, "models": "a"}, "tasks": []}, "`genome.models` is 'a'"),
    ],
)
def test_a_wrong_file_is_refused_by_name(keys, says):
    with pytest.raises(InputError) as error:
        parts(**keys)
    assert says in str(error.value)
