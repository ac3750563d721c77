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
        {"objectives": [{"task": "t"}, {"task": "u", "margin": 0.02}]},
        ["`objectives[1].margin` 0.02", "only a front has", "remove it"],
    ),
    (
        {"mode": "pareto", "objectives": [{"task": "t", "margin": -1}, {"metric": "layers"}]},
        ["`objectives[0].margin`", "-1", "at least 0"],
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
