"""A mistake in a search file is one sentence that names key, value and what is allowed."""

import pytest

from evomerge.config.schema import SearchConfig, load, parse
from evomerge.errors import ConfigError

GOOD = {
    "parents": ["zoo:maths", "zoo:language"],
    "objectives": [{"task": "zoo_maths", "metric": "exact_match"}],
    "budget": {"candidates": 3},
}


def test_a_dumped_config_parses_to_an_equal_config():
    config = parse(GOOD, "search.yaml")
    assert parse(config.model_dump(mode="json"), "again") == config


KINDS = {
    "parameters": {"kind": "parameters"},
    **{
        variant: {"kind": "dataflow", "variant": variant}
        for variant in ("sakana", "structured", "frankenmerge", "swaps", "dropping")
    },
}


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


def test_overrides(tmp_path):
    path = tmp_path / "search.yaml"
    path.write_text(
        "seed: 1\nparents: [a, b]\nobjectives: [{task: t, metric: acc}]\nbudget: {candidates: 3}\n"
    )
    config = load(path, ["objectives.0.metric=f1", "space.groups=each", "seed=7"])
    assert config.objectives[0].metric == "f1"
    assert config.space.groups == "each"
    assert config.seed == 7
    with pytest.raises(ConfigError, match="weight"):
        load(path, ["space.knobs.weight=1" + "0" * 350])


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
