"""A mistake in a search file is one sentence that names key, value and what is allowed."""

import copy

import pytest

from evomerge.config.schema import SearchConfig, load, parse
from evomerge.errors import ConfigError

GOOD = {
    "parents": ["zoo:maths", "zoo:language"],
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "budget": {"candidates": 3},
}

BAD = [
    ({"sede": 1}, ["`sede`", "Did you mean 'seed'"]),
    ({"space": {"kynd": "x"}}, ["`kynd`", "`space`", "Did you mean 'kind'"]),
    ({"space": {"kind": "paramters"}}, ["`space.kind`", "'paramters'", "Did you mean"]),
    ({"space": {"groups": 0}}, ["`space.groups`", "0", "1 or more"]),
    ({"space": {"groups": "eech"}}, ["`space.groups`", "'eech'", "'each'"]),
    ({"space": {"knobs": {"weight": [1, 0]}}}, ["`space.knobs.weight`", "[1, 0]", "low < high"]),
    ({"space": {"knobs": {"weight": [0, 1, 2]}}}, ["`space.knobs.weight`", "low, high"]),
    ({"space": {"groupz": 2}}, ["`groupz` in `space`", "Did you mean 'groups'"]),
    ({"space": {"kind": "joint"}}, ["`space.kind` is 'joint'; it must be 'parameters' or"]),
    (
        {"space": {"kind": "dataflow", "groups": 2}},
        ["`groups` 2, which has no meaning for `kind` 'dataflow', `variant`", "; remove it"],
    ),
    (
        {"space": {"kind": "dataflow", "variant": "swaps", "layers": [2, 4]}},
        ["`layers` [2, 4]", "`variant` 'swaps', whose keys are host, kind, outside, scales, "],
    ),
    (
        {"space": {"components": "each", "embeddings": False}},
        ["`space` has `components` 'each'", "`embeddings` false", "; set `embeddings` to true"],
    ),
    ({"space": {"variant": "swaps"}}, ["`variant` 'swaps', which has no meaning for `kind` 'par"]),
    (
        {"space": {"kind": "dataflow", "variant": "swap"}},
        ["`space.variant` is 'swap'; it must be 'sakana',", "or 'dropping'. Did you mean 'swaps'"],
    ),
    ({"space": {"kind": ["paths"]}}, ["`space.kind` is ['paths']; it must be 'parameters'"]),
    ({"space": {"kind": "dataflow", "scales": [0, 1]}}, ["`space.scales` is [0, 1]", "above 0"]),
    ({"space": {"kind": "dataflow", "scales": 0}}, ["`space.scales` is 0", "above 0"]),
    ({"space": {"kind": "dataflow", "start": [0, -1]}}, ["`space.start` is [0, -1]", "in sigmas"]),
    ({"space": {"kind": "dataflow", "start": [1]}}, ["key `space.start[1]` is missing"]),
    ({"space": {"kind": "dataflow", "layers": [5, 4]}}, ["`space.layers` is [5, 4]", "min <= max"]),
    ({"space": {"kind": "dataflow", "outside": {"haed": "a"}}}, ["`haed` in `space.outside`"]),
    ({"space": 3}, ["`space`", "mapping"]),
    ({"optimizer": {"population": 1}}, ["`optimizer.population`", "at least 2", "auto"]),
    ({"optimizer": {"sigma": 0}}, ["`optimizer.sigma`", "above 0"]),
    ({"budget": {}}, ["`budget`", "candidates, hours, target or patience"]),
    ({"budget": {"candidates": 0}}, ["`budget.candidates`", "at least 1"]),
    ({"objectives": []}, ["`objectives`", "at least one"]),
    (
        {"objectives": [{"metric": "acc"}]},
        ["`objectives[0]` has the metric 'acc' without a `task`", "parameters or layers"],
    ),
    ({"objectives": [{"metric": "layers"}]}, ["`objectives` is", "names no task", "name one"]),
    ({"mode": "pareto"}, ["`mode` 'pareto' and one objective", "add an objective"]),
    (
        {
            "mode": "pareto",
            "objectives": [{"task": "t"}, {"metric": "layers"}],
            "budget": {"target": 0.5},
        },
        ["`budget.target` 0.5", "with `mode` 'pareto' there is none; remove it"],
    ),
    (
        {"objectives": [{"task": "t", "tie_breaker": "nl"}]},
        ["`objectives[0].tie_breaker`", "'nl'", "'nll'"],
    ),
    (
        {"objectives": [{"task": "t", "metric": "nll", "tie_breaker": "nll"}]},
        ["`objectives[0]` has `tie_breaker` nll", "the metric 'nll' itself", "remove it"],
    ),
    (
        {"objectives": [{"task": "t"}, {"metric": "layers", "tie_breaker": "nll"}]},
        ["`objectives[1]` has `tie_breaker` nll without a `task`", "name a task"],
    ),
    (
        {"mode": "pareto", "objectives": [{"task": "t", "tie_breaker": "nll"}, {"task": "u"}]},
        ["`objectives[0].tie_breaker` nll", "`mode` 'pareto'", "the metric nll"],
    ),
    ({"evaluation": {"enable_thinking": False}}, ["without a chat template", "to true"]),
    (
        {"evaluation": {"generation": {"temperature": 0.6}}},
        ["`temperature` 0.6 without `do_sample`", "add `do_sample: true`"],
    ),
    (
        {"evaluation": {"generation": {"do_sample": True, "temperature": 0}}},
        ["`evaluation.generation` has `do_sample: true` with `temperature` 0", "above 0"],
    ),
    (
        {"evaluation": {"generation": {"do_sample": True, "temperature": float("nan")}}},
        ["`evaluation.generation.temperature` is nan; it must be a finite number"],
    ),
    (
        {"evaluation": {"enable_thinking": True, "chat_template": True}},
        ["set `think_end_token` to what ends it, such as '</think>'"],
    ),
    ({"constraints": [{"task": "t", "metric": "acc"}]}, ["needs `at_least` or `at_most`"]),
    (
        {"constraints": [{"task": "t", "metric": "acc", "at_least": 0.9, "at_most": 0.1}]},
        ["`at_least` 0.9 above `at_most` 0.1; exchange them"],
    ),
    ({"constraints": [{"metric": "acc", "at_least": 1}]}, ["without a `task`"]),
    (
        {"objectives": [{"metric": "layers", "task": None, "goal": "less"}]},
        ["`objectives[0].goal`", "'less'", "'maximize' or 'minimize'"],
    ),
    ({"objectives": [{"task": "t", "wight": 1}]}, ["`wight`", "`objectives[0]`", "'weight'"]),
    ({"objectives": [{"task": "t", "weight": -1}]}, ["`objectives[0].weight`", "-1", "above 0"]),
    ({"parents": "zoo:maths"}, ["`parents`", "a list"]),
    ({"parents": []}, ["`parents`", "at least one"]),
    ({"parents": ["zoo:maths", "zoo:maths"]}, ["`parents`", "twice"]),
    ({"evaluation": {"search": {"documents": 0}}}, ["`evaluation.search.documents`", "at least 1"]),
    ({"evaluation": {"search": {"documents": "al"}}}, ["`evaluation.search.documents`", "'all'"]),
    ({"evaluation": {"fewshot": -1}}, ["`evaluation.fewshot`", "at least 0"]),
    ({"evaluation": {"batch_size": "big"}}, ["`evaluation.batch_size`", "'auto'"]),
    (
        {"evaluation": {"search": {"documents": 9, "order": "rotating"}}},
        ["unknown key `order`", "`evaluation.search`", "allowed are", "documents"],
    ),
    ({"stages": [{}]}, ["unknown key `stages`", "export its winner, and name that folder"]),
    ({"dtype": "bf16"}, ["`dtype`", "'bf16'", "'bfloat16'"]),
    ({"seed": "x"}, ["`seed`", "whole number"]),
    ({"mode": "paretto"}, ["`mode`", "Did you mean 'pareto'"]),
    ({"executor": {"workers": 0}}, ["`executor.workers`", "at least 1"]),
]


@pytest.mark.parametrize(("change", "words"), BAD, ids=[str(change) for change, _ in BAD])
def test_a_mistake_is_one_sentence(change, words):
    with pytest.raises(ConfigError) as caught:
        parse(copy.deepcopy(GOOD) | change, "search.yaml")
    message = str(caught.value)
    assert message.startswith("search.yaml: ")
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_valid_file_gets_the_defaults():
    config = parse(copy.deepcopy(GOOD), "search.yaml")
    assert config.budget.candidates == 3
    assert config.optimizer.sigma == 1 / 6


def test_a_dumped_config_parses_to_an_equal_config():
    config = parse(copy.deepcopy(GOOD), "search.yaml")
    assert parse(config.model_dump(mode="json"), "again") == config


KINDS = {
    "parameters": {"kind": "parameters"},
    **{
        variant: {"kind": "dataflow", "variant": variant}
        for variant in ("sakana", "structured", "frankenmerge", "swaps", "dropping")
    },
}


def test_only_slots_are_repeated():
    repeats = {
        kind: parse(GOOD | {"space": space}, kind).space.model_dump().get("repeats")
        for kind, space in KINDS.items()
    }
    assert {kind for kind, count in repeats.items() if count == 2} == {"sakana", "structured"}


@pytest.mark.parametrize(
    ("space", "is_valid"),
    [
        *(({**kind}, True) for kind in KINDS.values()),
        ({}, True),
        ({"groups": 4, "method": ["ties", "linear"]}, True),
        ({"kind": "dataflow", "start": [2, 0]}, True),
        ({"kind": "dataflow", "variant": "swaps", "start": [2, 0]}, False),
        ({"kind": "dataflow", "groups": 4}, False),
        ({"kind": "dataflow", "repeats": 3}, True),
        ({"kind": "paths"}, False),
    ],
)
def test_editors_know_the_keys_of_each_kind(space, is_valid):
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(SearchConfig.model_json_schema())
    assert validator.is_valid(GOOD | {"space": space}) == is_valid


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("parents: [a\nseed: 1", "line"),
        ("seed: 1\nseed: 2", "is given twice"),
        ("- a", "mapping"),
        ("", "mapping"),
    ],
)
def test_unreadable_files(tmp_path, text, word):
    path = tmp_path / "search.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=word):
        load(path)


def test_a_missing_file_names_init(tmp_path):
    with pytest.raises(ConfigError, match="evomerge init"):
        load(tmp_path / "nothing.yaml")


def test_overrides(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "seed: 1\nparents: [a, b]\nobjectives: [{task: t, metric: acc}]\nbudget: {candidates: 3}\n"
    )
    config = load(path, ["objectives.0.metric=f1", "space.groups=each", "seed=7"])
    assert config.objectives[0].metric == "f1"
    assert config.space.groups == "each"
    assert config.seed == 7
    for wrong, word in (
        ("seed", "key.path=value"),
        ("objectives.5.metric=x", "from 0 to 0"),
        ("seed.x=1", "plain value"),
    ):
        with pytest.raises(ConfigError, match=word):
            load(path, [wrong])


def test_every_key_has_a_description():
    schema = SearchConfig.model_json_schema()
    sections = {"search file": schema, **schema["$defs"]}
    missing = [
        f"{section}.{key}"
        for section, content in sections.items()
        for key, value in content.get("properties", {}).items()
        if not value.get("description")
    ]
    assert not missing
